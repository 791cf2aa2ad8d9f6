"""Looped language models of others: every call of a layer is a stage, with the original's numbers.

All are tiny, random, and made from a configuration: nothing is downloaded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grokscope.errors import InputError
from grokscope.mechanics.patch.engine import STATE, record, travel
from grokscope.mechanics.unrolled import reading
from grokscope.models.called import LoopedCalls

VOCAB, WIDTH, POSITIONS = 29, 16, 6


class Block(nn.Module):
    """A causal block that gives a tuple, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.norm2(x)), None


def mask_of(x: Tensor) -> Tensor:
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)


class OuroLike(nn.Module):
    """A universal transformer: the stack and the norm run `total_ut_steps` times, an exit gate looks on."""

    def __init__(self, early: bool = False) -> None:
        super().__init__()
        self.embed_tokens, self.norm = nn.Embedding(VOCAB, WIDTH), nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.early_exit_gate, self.lm_head = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, VOCAB, bias=False)
        self.total_ut_steps, self.early = 3, early

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for _ in range(self.total_ut_steps):
            for layer in self.layers:
                x = layer(x, mask_of(x))[0]
            x = self.norm(x)
            if (
                self.early
                and torch.sigmoid(self.early_exit_gate(x)).mean() > 0.5
                and tokens.max() == VOCAB - 1
            ):
                break
        return self.lm_head(x)


class HuginnLike(nn.Module):
    """Prelude, a core that is given the input at every pass and starts from noise, coda."""

    def __init__(self, seeded: bool = True) -> None:
        super().__init__()
        self.wte, self.adapter = nn.Embedding(VOCAB, WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.prelude, self.core_block, self.coda = (
            nn.ModuleList(Block() for _ in range(n)) for n in (1, 2, 1)
        )
        self.ln_f, self.head, self.seeded = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False), seeded

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, tokens: Tensor) -> Any:
        x = self.wte(tokens) * 4.0
        for layer in self.prelude:
            x = layer(x, mask_of(x))[0]
        draw = torch.Generator().manual_seed(0) if self.seeded else None
        state = torch.randn(1, 64, WIDTH, generator=draw)[:, : x.shape[1]].expand_as(x)
        for _ in range(3):
            state = self.adapter(torch.cat([state, x], dim=-1))
            for layer in self.core_block:
                state = layer(state, mask_of(x))[0]
        for layer in self.coda:
            state = layer(state, mask_of(x))[0]
        return self.head(self.ln_f(state))


def hrm_text() -> nn.Module:
    """Transformers' own: two stacks, H_cycles of L_cycles."""
    transformers = pytest.importorskip("transformers")
    config = transformers.HrmTextConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        head_dim=8, H_cycles=2, L_cycles=2, max_position_embeddings=32,
    )  # fmt: skip
    return transformers.HrmTextForCausalLM(config)


def inkling() -> nn.Module:
    """Transformers' own: layers before and after the loop, messages from pass to pass, experts."""
    transformers = pytest.importorskip("transformers")
    config = transformers.models.inkling2_loop.configuration_inkling2_loop.Inkling2LoopTextConfig(
        vocab_size=VOCAB, unpadded_vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=6,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, swa_num_attention_heads=2,
        swa_num_key_value_heads=1, swa_head_dim=8, sliding_window_size=4, d_rel=4, rel_extent=16,
        moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, n_layers_per_attn_res_block=2,
        loop_layer_index_start=2, loop_layer_index_end=4, loop_num_passes=3, loop_gate_rank=4,
        eos_token_id=None, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.models.inkling2_loop.modeling_inkling2_loop.Inkling2LoopForCausalLM(config)


def ouro() -> LoopedCalls:
    return LoopedCalls(OuroLike(), POSITIONS, embedding="embed_tokens", head="lm_head")


FAMILIES: dict[str, Callable[[], LoopedCalls]] = {
    "hrm_text": lambda: LoopedCalls(hrm_text(), POSITIONS),
    "inkling2_loop": lambda: LoopedCalls(inkling(), POSITIONS),
    "ouro": ouro,
    "huginn": lambda: LoopedCalls(HuginnLike(), POSITIONS),
}
NAMES = {
    "hrm_text": [
        "embed",
        *[f"loop{n}.{s}.{i}" for n, s in ((0, "L_module"), (1, "L_module"), (0, "H_module"), (2, "L_module"),
                                          (3, "L_module"), (1, "H_module")) for i in (0, 1)],
    ],
    "inkling2_loop": [
        "embed", "loop0.layer0", "loop0.layer1", *[f"loop{n}.layer{i}" for n in range(3) for i in (2, 3)],
        "loop0.layer4", "loop0.layer5", "final",
    ],
    "ouro": ["embed", *[f"loop{n}.layer{i}" for n in range(3) for i in (0, 1)]],
    "huginn": [
        "embed", "loop0.prelude.0", *[f"loop{n}.core_block.{i}" for n in range(3) for i in (0, 1)],
        "loop0.coda.0",
    ],
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Iterator[tuple[str, LoopedCalls]]:
    torch.manual_seed(3)
    model = FAMILIES[request.param]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    with torch.inference_mode():
        yield request.param, model


def tokens(rows: int = 3) -> Tensor:
    return torch.randint(0, VOCAB, (rows, POSITIONS), generator=torch.Generator().manual_seed(1))


@contextmanager
def hooked(model: LoopedCalls, stage: int, hook: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """A plain hook on the very call that a stage is: on the k-th call of its module."""
    name = model._calls[stage]
    wanted, made = model._calls[:stage].count(name), [0]

    def on_call(_: nn.Module, __: Any, out: Any) -> Any:
        made[0] += 1
        if made[0] - 1 != wanted:
            return None
        value = hook(out[0] if isinstance(out, tuple) else out)
        return value if value is None or not isinstance(out, tuple) else (value, *out[1:])

    handle = model.theirs.get_submodule(name).register_forward_hook(on_call)
    try:
        yield
    finally:
        handle.remove()


def end_of(model: LoopedCalls, carry: Any, stage: int) -> Tensor:
    for later in range(stage + 1, len(model.stages)):
        carry = model.step(carry, later)
    return model.unembed(model.read(carry, len(model.stages) - 1))


def test_stages_are_the_calls_in_their_order(family: tuple[str, LoopedCalls]) -> None:
    name, model = family
    assert [stage.name for stage in model.stages] == NAMES[name]


def test_logits_and_every_stage_are_the_originals(family: tuple[str, LoopedCalls]) -> None:
    _, model = family
    out = model.theirs(tokens())
    truth = getattr(out, "logits", out)
    assert torch.equal(model(tokens()), truth.float())
    carry = model.start(tokens())
    for stage in model.stages:
        if stage.index:
            carry = model.step(carry, stage.index)
        if stage.name == "final":
            continue
        seen: list[Tensor] = []
        with hooked(model, stage.index, seen.append):
            model.theirs(tokens())
        assert torch.equal(model.read(carry, stage.index), seen[0])
    torch.testing.assert_close(
        model.unembed(model.read(carry, stage.index)), truth.float(), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(model.unembed(model.hidden(tokens())), truth.float(), atol=1e-5, rtol=1e-5)


def test_a_patch_is_what_a_hook_makes(family: tuple[str, LoopedCalls]) -> None:
    """At every stage, one position exchanged with another query's."""
    _, model = family
    carry = model.start(tokens())
    for stage in model.stages[:-1]:
        if stage.index:
            carry = model.step(carry, stage.index)

        def exchanged(value: Tensor) -> Tensor:
            value = value.clone()
            value[:, 2] = value.roll(1, 0)[:, 2]
            return value

        with hooked(model, stage.index, exchanged):
            out = model.theirs(tokens())
        truth = getattr(out, "logits", out).float()
        patched = model.write(carry, stage.index, exchanged(model.read(carry, stage.index)))
        torch.testing.assert_close(end_of(model, patched, stage.index), truth, atol=1e-4, rtol=1e-4)


def test_all_that_lives_on_makes_the_rest(family: tuple[str, LoopedCalls]) -> None:
    """With all of `live` of another query, at every position, the answer is that query's."""
    _, model = family
    truth = model(tokens()).roll(1, 0)
    carry = model.start(tokens())
    for stage in model.stages[:-1]:
        if stage.index:
            carry = model.step(carry, stage.index)
        moved = model.with_live(carry, stage.index, model.live(carry, stage.index).roll(1, 0))
        torch.testing.assert_close(end_of(model, moved, stage.index), truth, atol=1e-4, rtol=1e-4)


def test_taps_are_hooks_on_the_parts_of_that_call(family: tuple[str, LoopedCalls]) -> None:
    _, model = family
    stage = next(one for one in model.stages if one.name.startswith("loop1."))
    assert model.sites(stage.index) == ("state", "attention", "mlp")
    carry = model.start(tokens())
    for index in range(1, stage.index):
        carry = model.step(carry, index)
    tapped = model.step(carry, stage.index, lambda site, value: value * 0 if site == "mlp" else value)
    plain = model.step(carry, stage.index)
    assert not torch.equal(tapped[0], plain[0])
    seen: list[str] = []
    same = model.step(carry, stage.index, lambda site, value: seen.append(site) or value)
    assert seen == ["attention", "mlp"]
    assert torch.equal(same[0], plain[0])


def test_the_engine_records_and_travels(family: tuple[str, LoopedCalls]) -> None:
    """The patching engine of everything else, as it is."""
    import numpy as np

    from grokscope.mechanics.patch.engine import Joining

    _, model = family
    with reading(model) as twin:
        run = record(twin, tokens(), (STATE, "mlp"), answer=POSITIONS - 1)
        assert torch.allclose(
            twin.unembed(run.end_BD[:, None])[:, 0], model(tokens())[:, -1], atol=1e-4, rtol=1e-4
        )

        class Exchanged:
            def joining(self, stage: int) -> Iterator[Joining]:
                if stage < len(twin.stages) - 1:
                    live = run.value[stage, STATE]
                    rows = np.stack([np.full(3, stage), np.arange(3)], axis=1)
                    yield Joining(rows, twin.with_live(run.carries[stage], stage, live.roll(1, 0)))

        address, end = travel(twin, [Exchanged()], POSITIONS - 1)
        assert len(address) == 3 * (len(twin.stages) - 1)
        expected = run.end_BD.roll(1, 0)[torch.from_numpy(address[:, 1])]
        torch.testing.assert_close(end, expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_looked_at_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match="make its initial state a fixed one"):
        LoopedCalls(HuginnLike(seeded=False), POSITIONS)
    with pytest.raises(InputError, match="head = None"):
        LoopedCalls(OuroLike(), POSITIONS)
    with pytest.raises(InputError, match=r"layers = 'h': the model has no module"):
        LoopedCalls(OuroLike(), POSITIONS, layers=["h"], head="lm_head")
    early = OuroLike(early=True)
    nn.init.constant_(early.early_exit_gate.bias, 9.0)
    model = LoopedCalls(early, POSITIONS, head="lm_head")
    with pytest.raises(InputError, match="switch early exits off"):
        model.hidden(tokens() * 0 + VOCAB - 1)
    carry = model.start(tokens() * 0 + VOCAB - 1)
    for stage in (1, 2):
        carry = model.step(carry, stage)
    with pytest.raises(InputError, match="stage = 3: the model makes fewer calls"):
        model.step(carry, 3)
    with pytest.raises(InputError, match="loops = 9"):
        ouro().hidden(tokens(), 9)
