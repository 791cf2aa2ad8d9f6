"""The view under TransformerLens's names sees and changes what the model computes."""

import pytest
import torch
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.hooked import Hooked, HookPoint
from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.models.spec import LoopedSpec, ModelSpec, RecursiveSpec
from grokscope.world.format import FormatSpec

SPECS: dict[str, ModelSpec] = {
    "plain": LoopedSpec(width=16, heads=2, layers=3, loops=1),
    "looped": LoopedSpec(width=16, heads=2, layers=2, loops=3),
    "recursive": RecursiveSpec(width=16, heads=2, mixer=False, h_cycles=2, l_cycles=2, prefix=2),
}


def model_of(kind: str) -> Reasoner:
    return build_model(SPECS[kind], 13, 5, FormatSpec(), 0, "float32").eval()


def tokens() -> Tensor:
    return torch.arange(15).view(3, 5) % 13


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "plain",
            ["hook_embed", "blocks.2.hook_resid_post", "blocks.0.attn.hook_pattern", "blocks.1.hook_mlp_out"],
        ),
        ("looped", ["loops.2.blocks.1.hook_resid_post", "loops.1.blocks.0.hook_injection"]),
        ("recursive", ["loops.1.commit.hook_resid_post", "loops.0.think1.blocks.1.hook_attn_out"]),
    ],
)
def test_all_is_cached_under_both_names(kind: str, names: list[str]) -> None:
    model = model_of(kind)
    logits, cache = Hooked(model).run_with_cache(tokens())
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(tokens()), atol=1e-5, rtol=1e-5)
        assert set(names) <= set(cache)
        carry = model.start(tokens())
        for stage in model.stages:
            carry = model.step(carry, stage.index, lambda _, value: value) if stage.index else carry
            torch.testing.assert_close(cache[stage.name], model.read(carry, stage.index))
    one = Hooked(model).run_with_cache(tokens(), names[0])[1]
    assert names[0] in one
    assert len(one) == 2
    assert set(Hooked(model).run_with_cache(tokens(), lambda name: name.endswith("mlp_out"))[1])


@pytest.mark.parametrize("kind", SPECS)
def test_a_hook_replaces_what_it_returns(kind: str) -> None:
    model = model_of(kind)
    view, seen = Hooked(model), list[str]()
    states = [name for name in view.points if name.endswith("resid_post")]

    def exchanged(value: Tensor, hook: HookPoint) -> Tensor:
        seen.append(hook.name)
        return value.roll(1, 0)

    logits = view.run_with_hooks(tokens(), [(states[-1], exchanged)])
    torch.testing.assert_close(logits, view.run_with_hooks(tokens(), []).roll(1, 0))
    assert seen == [states[-1]]
    inner = next(name for name in view.points if name.endswith("hook_mlp_out"))
    assert not torch.equal(
        view.run_with_hooks(tokens(), [(inner, lambda value, hook: 0 * value)]),
        view.run_with_hooks(tokens(), []),
    )
    with pytest.raises(InputError, match="there is no such hook"):
        view.run_with_cache(tokens(), "blocks.9.hook_q")
