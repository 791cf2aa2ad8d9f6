"""The same single edit by other tools: the state after a layer, at one position, taken from another query.

nnsight, pyvene and TransformerLens each hold a plain GPT-2; nnsight alone a module that is called several
times.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from grokscope.mechanics.patch.interventions import Intervention, intervene
from grokscope.models.build import build_model
from grokscope.models.published.importing import import_checkpoint
from grokscope.models.published.options import ShapeOptions
from grokscope.models.spec import RecursiveSpec
from grokscope.world.format import FormatSpec
from tests.models.test_called import FAMILIES, POSITIONS, VOCAB, end_of

LAYER, POSITION = 1, 2
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def original() -> Any:
    """Hugging Face's GPT-2, small and random, without dropout."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=40,
        n_positions=8,
        n_embd=16,
        n_layer=3,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        attn_pdrop=0,
        embd_pdrop=0,
        resid_pdrop=0,
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def queries() -> tuple[Tensor, Tensor]:
    """Base and source, (B, S) each."""
    tokens = torch.randint(40, (2, 5, 6), generator=torch.Generator().manual_seed(1))
    return tokens[0], tokens[1]


@pytest.fixture(scope="module")
def ours(original: Any, queries: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """(B, S, V) what our engine says of that edit."""
    folder = tmp_path_factory.mktemp("gpt2")
    original.save_pretrained(folder)
    model = import_checkpoint(
        folder / "model.safetensors", folder / "config.json", ShapeOptions(loops=1)
    ).model
    base, source = queries
    carry = model.start(source)
    for stage in range(1, LAYER + 2):
        carry = model.step(carry, stage)
    state = model.live(carry, LAYER + 1)[:, [POSITION]]
    edited = intervene(model, base, [Intervention("replace", "state", LAYER + 1, (POSITION,), state)])
    plain = original(base).logits
    torch.testing.assert_close(intervene(model, base, []), plain, **CLOSE)
    assert (edited - plain)[:, POSITION:].abs().amax(dim=(1, 2)).min() > 0.1
    return edited


def test_transformer_lens(
    original: Any, queries: tuple[Tensor, Tensor], ours: Tensor, tmp_path: Path
) -> None:
    lens = pytest.importorskip("transformer_lens.model_bridge")
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    original.save_pretrained(tmp_path)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(n): n for n in range(40)}, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="0")
    model = lens.TransformerBridge.boot_transformers(
        str(tmp_path), hf_model=copy.deepcopy(original), tokenizer=tokenizer, device="cpu"
    )
    base, source = queries
    name = f"blocks.{LAYER}.hook_out"
    _, cache = model.run_with_cache(source)

    def put(state: Tensor, hook: object) -> Tensor:
        state = state.clone()
        state[:, POSITION] = cache[name][:, POSITION]
        return state

    torch.testing.assert_close(model.run_with_hooks(base, fwd_hooks=[(name, put)]), ours, **CLOSE)


def test_pyvene(original: Any, queries: tuple[Tensor, Tensor], ours: Tensor) -> None:
    pyvene = pytest.importorskip("pyvene")
    where = {"layer": LAYER, "component": "block_output", "intervention_type": pyvene.VanillaIntervention}
    model = pyvene.IntervenableModel(where, model=original)
    base, source = queries
    _, changed = model(
        base={"input_ids": base}, sources=[{"input_ids": source}], unit_locations={"sources->base": POSITION}
    )
    torch.testing.assert_close(changed.logits, ours, **CLOSE)


def test_nnsight(original: Any, queries: tuple[Tensor, Tensor], ours: Tensor) -> None:
    nnsight = pytest.importorskip("nnsight")
    base, source = queries
    opened = nnsight.NNsight(original)
    with opened.trace(source):
        state = opened.transformer.h[LAYER].output.save()
    state = state[0] if isinstance(state, tuple) else state
    with opened.trace(base):
        found = opened.transformer.h[LAYER].output
        found = found[0] if isinstance(found, tuple) else found
        found[:, POSITION] = state[:, POSITION]
        logits = opened.output.logits.save()
    torch.testing.assert_close(logits, ours, **CLOSE)


@pytest.mark.parametrize("mixer", [True, False])
def test_nnsight_edits_one_pass_of_a_recursive_model(mixer: bool) -> None:
    nnsight = pytest.importorskip("nnsight")
    spec = RecursiveSpec(width=16, heads=2, h_cycles=2, l_cycles=2, prefix=2, mixer=mixer)
    model = build_model(spec, 11, 5, FormatSpec(), seed=0, dtype="float32").eval()
    stage = next(one for one in model.stages if one.name == "cycle1.think0")
    where = (0, 2, 3)  # a register, the head, the first relation
    source = torch.randn(2, len(where), 16, generator=torch.Generator().manual_seed(2))
    tokens_BS = torch.arange(10).view(2, 5)
    opened = nnsight.NNsight(model)
    with opened.trace(tokens_BS) as tracer:
        for _ in tracer.iter[stage.index - 1]:
            opened.level.output[:, list(where)] = source
        logits = opened.output.save()
    ours = intervene(model, tokens_BS, [Intervention("replace", stage.site, stage.index, where, source)])
    torch.testing.assert_close(ours, logits, **CLOSE)


@pytest.mark.parametrize("family", ["ouro", "huginn", "hrm_text"])
def test_nnsight_edits_one_call_of_a_looped_language_model(family: str) -> None:
    """Loop 2, layer 1, one position, from another query."""
    nnsight = pytest.importorskip("nnsight")
    torch.manual_seed(3)
    model = FAMILIES[family]()
    base, source = torch.randint(0, VOCAB, (2, 4, POSITIONS), generator=torch.Generator().manual_seed(5))
    stage = next(one for one in model.stages if (one.loop, one.layer) == (2, 1))
    opened = nnsight.NNsight(model.theirs)
    layer = opened.get(model._calls[stage.index])

    def state(out: Any) -> Any:
        return out[0] if isinstance(out, tuple) else out

    with torch.no_grad():
        with opened.trace(source) as tracer:
            for _ in tracer.iter[stage.loop]:
                theirs = layer.output.save()
        theirs = state(theirs)
        with opened.trace(base) as tracer:
            for _ in tracer.iter[stage.loop]:
                found = layer.output
                found = found[0] if isinstance(found, tuple) else found
                found[:, POSITION] = theirs[:, POSITION]
            out = opened.output.save()
        ours: list[Tensor] = []
        for tokens_BS in (source, base):
            carry = model.start(tokens_BS)
            for index in range(1, stage.index + 1):
                carry = model.step(carry, index)
            ours.append(model.read(carry, stage.index).clone())
        ours[1][:, POSITION] = ours[0][:, POSITION]
        patched = end_of(model, model.write(carry, stage.index, ours[1]), stage.index)
    torch.testing.assert_close(theirs, ours[0], **CLOSE)
    torch.testing.assert_close(patched, getattr(out, "logits", out).float(), **CLOSE)
    assert not torch.allclose(patched, model(base), atol=1e-3)
