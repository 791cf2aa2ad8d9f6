"""Interventions as data against the plain way of doing the same thing."""

import pytest
import torch

from grokscope.errors import InputError
from grokscope.mechanics.patch.interventions import Intervention, forward, intervene, lower
from tests.mechanics.causal_cases import MODELS, corpus, model_of


def tokens_of(model: torch.nn.Module, kind: str) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    size = 3 if kind == "looped" else 5
    return torch.randint(1, corpus().world.vocabulary.size, (4, size), generator=draws)


def value_at_site(model, tokens, stage, site):
    seen = {}
    forward(model, tokens, lambda s, name, value: seen.setdefault((s, name), value))
    return seen[stage, site]


@pytest.mark.parametrize("kind", MODELS)
def test_every_site_is_reached_and_a_plan_equals_a_plain_tap(kind):
    """Masks and sources, and a callable that assigns by index, give the same numbers at every site."""
    model = model_of(kind)
    tokens = tokens_of(model, kind)
    other = tokens.flip(0)
    with torch.no_grad():
        clean = forward(model, tokens)
        for stage in (0, 1, len(model.stages) - 1):
            for site in dict.fromkeys(("state", *model.sites(stage))):
                source = value_at_site(model, other, stage, site)
                positions = (0, source.shape[-2] - 1)
                for how in ("replace", "add", "zero", "mean"):
                    part = source[..., list(positions), :]
                    given = None if how == "zero" else part

                    def tap(s, name, value, stage=stage, site=site, how=how, part=part, positions=positions):
                        if (s, name) != (stage, site):
                            return value
                        value = value.clone()
                        for k, t in enumerate(positions):
                            if how == "add":
                                value[..., t, :] += part[..., k, :]
                            else:
                                new = {"replace": part, "zero": 0 * part, "mean": part.mean(0, keepdim=True)}
                                value[..., t, :] = new[how][..., k, :]
                        return value

                    change = Intervention(how, site, stage, positions, given)
                    lowered = lower([change], model, model.prefix + tokens.shape[1])
                    one, two = forward(model, tokens, lowered), forward(model, tokens, tap)
                    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
                    assert torch.isfinite(one).all()
        torch.testing.assert_close(clean, forward(model, tokens, lambda s, n, v: v), rtol=1e-5, atol=1e-5)


def test_a_plan_runs_in_a_captured_graph():
    """No Python in a lowered plan depends on data: the whole forward pass is one graph."""
    model = model_of("looped")
    tokens = tokens_of(model, "looped")
    changes = (
        Intervention("replace", "state", 2, (1,), torch.randn(4, 1, 16)),
        Intervention("zero", "block0.mlp", 3, (0, 2)),
        Intervention("zero", "injection", 3, (0,)),
    )
    lowered = lower(changes, model, 3)
    with torch.no_grad():
        captured = torch.compile(lambda t: forward(model, t, lowered), backend="eager", fullgraph=True)
        # To rounding: a compiler is given GELU in another form.
        torch.testing.assert_close(captured(tokens), forward(model, tokens, lowered), rtol=1e-5, atol=1e-5)


def test_interventions_that_meet_apply_in_order():
    model = model_of("looped")
    tokens = tokens_of(model, "looped")
    first = Intervention("zero", "state", 1, (1,))
    second = Intervention("add", "state", 1, (1,), torch.ones(1, 1, 16))
    with torch.no_grad():
        both = intervene(model, tokens, (first, second))
        ones = intervene(model, tokens, (Intervention("replace", "state", 1, (1,), torch.ones(1, 1, 16)),))
        last = intervene(model, tokens, (second, first))
        zero = intervene(model, tokens, (first,))
    assert torch.equal(both, ones)
    assert torch.equal(last, zero)
    assert not torch.equal(both, last)


def test_causal_patches_do_not_reach_back():
    model = model_of("looped")
    tokens = tokens_of(model, "looped")
    with torch.no_grad():
        clean, patched = model(tokens), intervene(model, tokens, (Intervention("zero", "state", 1, (1,)),))
    assert torch.equal(clean[:, 0], patched[:, 0])
    assert not torch.equal(clean[:, 1:], patched[:, 1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stage": 9}, "stage = 9"),
        ({"site": "z_H"}, "site = 'z_H'"),
        ({"positions": (3,)}, "positions = (3,)"),
        ({"positions": ()}, "positions = ()"),
        ({"source": None}, "needs a source"),
        ({"kind": "zero"}, "takes no source"),
        ({"source": torch.zeros(1, 2, 16)}, "source of shape (1, 2, 16)"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, said):
    given = {
        "kind": "replace",
        "site": "state",
        "stage": 1,
        "positions": (0,),
        "source": torch.zeros(1, 1, 16),
    }
    with pytest.raises(InputError) as error:
        lower([Intervention(**{**given, **change})], model_of("looped"), 3)
    assert said in str(error.value)
