"""Building: seeds, laws of initial weights, names, refusals."""

import math

import pytest
import torch
from hypothesis import given, settings

from grokscope.errors import InputError
from grokscope.models.build import build_model, count_parameters
from grokscope.models.spec import LoopedSpec, ModelSpec, RecursiveSpec
from tests.models.helpers import CAUSAL, FULL, looped_specs, recursive_specs


@settings(max_examples=20, deadline=None)
@given(looped_specs | recursive_specs)
def test_same_seed_same_bytes_and_the_global_stream_is_left_alone(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, c = (build_model(spec, 7, 3, FULL, seed, "float32").state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(a) == list(b) == list(c)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["token_embedding"], c["token_embedding"])
    assert all(value.dtype == torch.float32 for value in a.values())


def test_initial_weights_of_the_trm() -> None:
    spec = RecursiveSpec(width=256, heads=4, mixer=False, positions="learned", prefix=3)
    state = build_model(spec, 500, 5, FULL, seed=0, dtype="float32").state_dict()
    for name, value in state.items():
        if name in ("prefix_embedding", "halting.weight"):
            assert not value.any()
        elif name == "halting.bias":
            assert value.tolist() == [-5.0, -5.0]
        else:
            std = 1.0 if name in ("h_init", "l_init") else value.shape[-1] ** -0.5
            # cut at 2 std of a normal whose std is 1 / 0.8796 of what is asked for
            assert value.abs().max() <= 2 * std / 0.8796 + 1e-6, name
            # standard error of a std estimate (the cut makes it smaller still): 1 / sqrt(2 n)
            assert abs(value.std().item() / std - 1) < 4 / math.sqrt(2 * value.numel()), name


@pytest.mark.parametrize("init", ["fan_in", "gpt2"])
def test_initial_weights_of_the_looped_model(init: str) -> None:
    tree = {"width": 128, "layers": 2, "loops": 3, "positions": "learned", "bias": True, "tied_head": False}
    spec = LoopedSpec.parse({**tree, "norm": "layernorm", "init": init})
    for name, value in build_model(spec, 300, 5, CAUSAL, seed=0, dtype="float32").state_dict().items():
        if name.endswith("gain"):
            assert (value == 1).all()
        elif name.endswith("bias"):
            assert not value.any()
        else:
            std = value.shape[-1] ** -0.5
            if init == "gpt2":
                writes = name.endswith(("attention.out.weight", "mlp.down.weight"))
                std = 0.02 / math.sqrt(12) if writes else 0.02
            assert abs(value.std().item() / std - 1) < 4 / math.sqrt(2 * value.numel()), name


def test_names_are_stable() -> None:
    """Checkpoints are read by these names."""
    looped = build_model(
        LoopedSpec(width=16, layers=1, norm_position="pre", norm="layernorm"), 7, 3, CAUSAL, 0, "float32"
    )
    assert list(looped.state_dict()) == [
        "token_embedding",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.mlp.up.weight",
        "blocks.0.mlp.down.weight",
        "blocks.0.norm1.gain",
        "blocks.0.norm1.bias",
        "blocks.0.norm2.gain",
        "blocks.0.norm2.bias",
        "final_norm.gain",
        "final_norm.bias",
    ]
    recursive = build_model(RecursiveSpec(width=12, layers=1), 7, 3, FULL, 0, "float32")
    assert set(recursive.state_dict()) == {
        "token_embedding",
        "prefix_embedding",
        "h_init",
        "l_init",
        "level.blocks.0.mixer.gate_up.weight",
        "level.blocks.0.mixer.down.weight",
        "level.blocks.0.mlp.gate_up.weight",
        "level.blocks.0.mlp.down.weight",
        "head.weight",
        "halting.weight",
        "halting.bias",
    }


@settings(max_examples=20, deadline=None)
@given(looped_specs | recursive_specs)
def test_every_parameter_has_the_group_that_its_name_says(spec: ModelSpec) -> None:
    """What a group is for (Muon, decay, freezing) follows from it."""
    model = build_model(spec, 7, 3, FULL, 0, "float32")
    for name, _ in model.named_parameters():
        first = name.split(".")[0]
        words = {"blocks": "blocks", "level": "blocks", "prefix_embedding": "prefix"}
        words |= {"position_embedding": "position", "token_embedding": "embedding"}
        words |= {"embedding_norm": "embedding"}
        assert model.group_of(name) == words.get(first, "head")


def test_a_parameter_without_a_group_is_refused() -> None:
    model = build_model(LoopedSpec(width=16), 7, 3, CAUSAL, 0, "float32")
    model.register_parameter("blocks_gain", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(InputError, match=r"blocks_gain: LoopedModel\.groups"):
        model.group_of("blocks_gain")


def test_sizes() -> None:
    shared = LoopedSpec(width=16, layers=2, loops=3)
    one, three = (build_model(s, 7, 3, CAUSAL, 0, "float32") for s in (shared, shared.replace(shared=False)))
    block = 3 * 16 * 16 + 16 * 16 + 2 * 16 * 64
    assert count_parameters(one) == 7 * 16 + 2 * block
    assert count_parameters(three) == 7 * 16 + 6 * block
    # TRM inner widths: 64 and 13, both up to 256; 97 * 8 / 3 = 258.7, up to 512
    trm = build_model(RecursiveSpec(width=24, prefix=2, layers=1), 7, 3, FULL, 0, "float32")
    assert trm.get_parameter("level.blocks.0.mixer.gate_up.weight").shape == (512, 5)
    assert trm.get_parameter("level.blocks.0.mlp.down.weight").shape == (24, 256)
    wide = build_model(RecursiveSpec(width=97, prefix=2, layers=1), 7, 3, FULL, 0, "float32")
    assert wide.get_parameter("level.blocks.0.mlp.gate_up.weight").shape == (1024, 97)


def test_refusals_of_what_cannot_be_built() -> None:
    with pytest.raises(InputError, match=r"format\.attention"):
        build_model(RecursiveSpec(width=12), 7, 3, CAUSAL, 0, "float32")
    with pytest.raises(InputError, match="float16"):
        build_model(LoopedSpec(), 7, 3, CAUSAL, 0, "float16")
    for vocab, positions in ((0, 3), (7, 0)):
        with pytest.raises(InputError, match="at least 1"):
            build_model(LoopedSpec(), vocab, positions, CAUSAL, 0, "float32")
    with pytest.raises(InputError, match=r"model\.width = 65536.* do not fit this machine's memory"):
        build_model(LoopedSpec(width=2**16), 2**40, 3, CAUSAL, 0, "float32")


@pytest.mark.parametrize(
    ("kind", "tree", "match"),
    [
        (RecursiveSpec, {"mixer": True, "positions": "rotary"}, "rotary"),
        (RecursiveSpec, {"mixer": False, "width": 10, "heads": 4}, "divide"),
        (LoopedSpec, {"width": 10, "heads": 4}, "divide"),
        (LoopedSpec, {"width": 6, "heads": 2, "positions": "rotary"}, "even"),
        (LoopedSpec, {"shared": False, "loops": 2, "inference_loops": 3}, "inference_loops"),
        (LoopedSpec, {"init": "xavier"}, "init"),
        (LoopedSpec, {"width": 2**40}, "width = 1099511627776"),
        (LoopedSpec, {"loops": 10**9}, "loops = 1000000000"),
        (RecursiveSpec, {"l_cycles": 10**9}, "l_cycles = 1000000000"),
    ],
)
def test_specs_refuse_what_cannot_be_honoured(
    kind: type[LoopedSpec] | type[RecursiveSpec], tree: dict[str, object], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        kind.parse(tree)


def test_a_tied_trm_differs_from_an_untied_one_by_its_head_alone() -> None:
    """What is drawn for the head must not move what is drawn after it."""
    spec = RecursiveSpec(width=16, prefix=2)
    tied, own = (build_model(spec.replace(tied_head=on), 11, 5, FULL, 0, "float32") for on in (True, False))
    one, two = tied.state_dict(), own.state_dict()
    assert set(two) - set(one) == {"head.weight"}
    assert all(torch.equal(one[name], two[name]) for name in one)
    state_BTD = torch.randn(2, 7, 16)
    torch.testing.assert_close(tied.unembed(state_BTD), state_BTD @ one["token_embedding"].T)
