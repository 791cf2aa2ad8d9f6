"""The adapter of docs/adapters.md is one: the original's numbers, whatever number of passes they take."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from grokscope.models.called import LoopedCalls
from tests.models.test_called import HuginnLike, OuroLike, hooked, hrm_text

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"
EXAMPLES = re.findall(r"```py(?:thon)? (\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
FAMILIES = [one for one in EXAMPLES if one[0] != "prompts"]


def inkling_config() -> Any:
    """Two layers, of which the second is looped."""
    inkling = pytest.importorskip("transformers").models.inkling2_loop
    return inkling.configuration_inkling2_loop.Inkling2LoopTextConfig(
        vocab_size=19, unpadded_vocab_size=19, hidden_size=16, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, swa_num_attention_heads=2,
        swa_num_key_value_heads=1,
        swa_head_dim=8, sliding_window_size=4, d_rel=4, rel_extent=16, moe_intermediate_size=16,
        n_routed_experts=4, num_experts_per_tok=2, n_layers_per_attn_res_block=1, loop_gate_rank=4,
        loop_layer_index_start=1, loop_layer_index_end=2, loop_num_passes=3, eos_token_id=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page's Python defines."""
    names: dict[str, Any] = {"__name__": "page"}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)), names)
    return names


@pytest.mark.parametrize(("family", "text"), FAMILIES, ids=[one[0] for one in FAMILIES])
def test_any_looped_language_model_in_ten_lines(
    family: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is what a hook on that call sees, and the exchange what a hook there makes."""
    assert len([line for line in text.splitlines() if line]) <= 10
    theirs = ModuleType("theirs")
    theirs.OuroForCausalLM, theirs.RavenForCausalLM = OuroLike, HuginnLike
    for name in ("modeling_ouro", "raven_modeling_minimal"):
        monkeypatch.setitem(sys.modules, name, theirs)
    torch.manual_seed(0)
    names: dict[str, Any] = {"tokens_BS": torch.arange(12).view(2, 6)}
    if family == "inkling2_loop":
        names["config"] = inkling_config()
    with torch.inference_mode():
        exec(text, names)
        model = names["view"].model
        (stage,) = (one for one in model.stages if one.loop == 2 and re.search(rf"\"{one.name}\"", text))
        assert stage.layer == 1
        seen: list[torch.Tensor] = []
        with hooked(model, stage.index, lambda value: seen.append(value) or value.roll(1, 0)):
            out = model.theirs(names["tokens_BS"])
    assert torch.equal(names["state_BTD"], seen[0])
    truth = getattr(out, "logits", out).float()
    torch.testing.assert_close(names["exchanged_BSV"], truth, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(names["exchanged_BSV"], names["logits_BSV"], atol=1e-3)


def test_all_that_lives_on_brings_the_answers_step_by_step() -> None:
    (code,) = re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for theirs in (hrm_text(), OuroLike()):
        torch.manual_seed(0)
        tokens_BS = torch.arange(12).view(2, 6)
        names: dict[str, Any] = {"theirs": theirs, "tokens_BS": tokens_BS}
        with torch.inference_mode():
            exec(code.replace("positions=6", "positions=6, head='lm_head'"), names)
            out = theirs.eval()(tokens_BS)
        truth = getattr(out, "logits", out)
        torch.testing.assert_close(names["logits_BSV"], truth.roll(1, 0).float(), atol=1e-4, rtol=1e-4)


def test_prompts_instead_of_a_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, code),) = [one for one in EXAMPLES if one[0] == "prompts"]
    (table,) = re.findall(r"```csv\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    header, row = table.splitlines()
    (tmp_path / "prompts.csv").write_text("\n".join([header, row, row.replace("Emma", "Dune")]) + "\n")
    words: dict[str, int] = {}

    def tokenizer(text: str) -> list[int]:
        return [words.setdefault(word, len(words)) for word in text.split()]

    torch.manual_seed(0)
    names = {"tokenizer": tokenizer, "model": LoopedCalls(OuroLike(), 9, head="lm_head")}
    exec(code, names)
    assert (tmp_path / "path.png").exists()
    assert dict(names["moved"].sizes) == {"stage": 7, "position": 8, "prompt": 2}


@pytest.fixture
def adapter(page: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    theirs = page["TheirModel"]()
    torch.nn.init.normal_(theirs.core.weight, std=0.35)  # some stop, some do not
    return page["Adapter"](theirs, positions=3).eval()


def test_same_logits_as_the_original_and_as_the_chain_of_steps(adapter: Any) -> None:
    tokens_BS = torch.arange(33).view(11, 3) % 11
    torch.testing.assert_close(adapter(tokens_BS), adapter.theirs(tokens_BS), atol=1e-5, rtol=0.0)
    carry, stopped = adapter.start(tokens_BS), []
    for stage in adapter.stages[1:]:
        carry = adapter.step(carry, stage.index)
        stopped.append(int(carry.stopped_B.sum()))
    assert 0 < stopped[-2] < 11, "inputs must differ in their number of passes, or nothing is tested"
    assert torch.equal(adapter.read(carry, stage.index), adapter.hidden(tokens_BS))


def test_a_stopped_input_keeps_its_state_and_another_goes_on_from_what_is_written(adapter: Any) -> None:
    tokens_BS = torch.arange(33).view(11, 3) % 11
    carry = adapter.start(tokens_BS)
    for stage in adapter.stages[1:-1]:
        carry = adapter.step(carry, stage.index)
    last = adapter.step(carry, len(adapter.stages) - 1)
    kept_B = (last.state_BTD == carry.state_BTD).flatten(1).all(1)
    assert torch.equal(kept_B, carry.stopped_B)
    written = adapter.write(carry, stage.index, torch.zeros_like(carry.state_BTD))
    assert torch.equal(adapter.read(written, stage.index), torch.zeros_like(carry.state_BTD))
    moved = adapter.step(written, len(adapter.stages) - 1)
    assert not torch.equal(moved.state_BTD[~kept_B], last.state_BTD[~kept_B])
    assert torch.equal(moved.state_BTD[kept_B], written.state_BTD[kept_B])


def test_taps_reach_the_sites_that_the_adapter_names(adapter: Any) -> None:
    seen: list[str] = []

    def tap(site: str, value: torch.Tensor) -> torch.Tensor:
        seen.append(site)
        return value

    carry = adapter.step(adapter.start(torch.zeros(2, 3, dtype=torch.long)), 1, tap)
    assert (adapter.stages[1].site, *seen) == adapter.sites(1)
    assert carry.state_BTD.shape == (2, 3, 8)
