"""Published checkpoints give the original's numbers: logits and the state at every stage."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import grokscope
from grokscope.cli import main
from grokscope.errors import InputError
from grokscope.models.looped import LoopedModel
from grokscope.models.published.gpt2 import hidden_states
from grokscope.models.published.importing import import_checkpoint
from grokscope.models.published.options import ShapeOptions
from grokscope.models.published.tensors import strip
from grokscope.models.published.trm import LEAD
from tests.models.helpers import unrolled
from tests.models.published import (
    gpt2_config,
    gpt2_truth,
    gpt2_weights,
    tokens,
    trm_config,
    trm_truth,
    trm_weights,
)

CLOSE = {"atol": 1e-5, "rtol": 0.0}
ATTENTION = {"mlp_t": False, "pos_encodings": "rope"}


def written(tmp_path: Path, weights: dict[str, torch.Tensor], config: dict[str, object]) -> tuple[Path, Path]:
    """The checkpoint as a PyTorch file, and its config as JSON."""
    torch.save(weights, tmp_path / "step_1000")
    (tmp_path / "all_config.json").write_text(json.dumps(config))
    return tmp_path / "step_1000", tmp_path / "all_config.json"


def same_trm(model: torch.nn.Module, weights: dict[str, torch.Tensor], config: dict, lead: str = "") -> None:
    """Logits, halting logits and every state of 16 inputs, stage names and their order included."""
    tokens_BS = tokens(16, 5)
    truth = trm_truth(weights, config, tokens_BS, lead)
    assert [stage.name for stage in model.stages] == [
        name for name in truth if name not in ("logits", "halt")
    ]
    states = unrolled(model, tokens_BS)
    for stage, state_BTD in zip(model.stages, states, strict=True):
        torch.testing.assert_close(state_BTD, truth[stage.name], **CLOSE)
    torch.testing.assert_close(model(tokens_BS), truth["logits"], **CLOSE)
    torch.testing.assert_close(model.halt(states[-1]), truth["halt"], **CLOSE)


@pytest.mark.parametrize("lead", ["", "model.", "_orig_mod.model.", "model._orig_mod.", "net.backbone."])
@pytest.mark.parametrize("variant", [{"mlp_t": True}, ATTENTION], ids=["mixer", "attention"])
def test_trm_under_every_lead_of_its_names(tmp_path: Path, variant: dict[str, object], lead: str) -> None:
    config = trm_config(**variant)
    weights = trm_weights(config, lead)
    same_trm(import_checkpoint(*written(tmp_path, weights, config)).model, weights, config, lead)


@pytest.mark.parametrize(
    "variant",
    [
        {"pos_encodings": "learned"},
        {"mlp_t": False, "pos_encodings": "learned", "L_layers": 1},
        {"mlp_t": False, "pos_encodings": "none"},
        {**ATTENTION, "H_cycles": 3, "L_cycles": 1},
        {"H_cycles": 1, "L_cycles": 6, "puzzle_emb_len": 16, "hidden_size": 32},
        {"puzzle_emb_ndim": 72},
        {"puzzle_emb_ndim": 24, "puzzle_emb_len": 1},
        {"puzzle_emb_ndim": 7},
        {"puzzle_emb_ndim": 0, "puzzle_emb_len": 0},
        {"expansion": 2.5, "num_heads": 2},
    ],
    ids=str,
)
def test_trm_of_every_shape(tmp_path: Path, variant: dict[str, object]) -> None:
    config = trm_config(**variant)
    weights = trm_weights(config, seed=1)
    same_trm(import_checkpoint(*written(tmp_path, weights, config)).model, weights, config)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "variant",
    [
        {"H_cycles": 3, "L_cycles": 4, "L_layers": 3, "pos_encodings": "learned"},
        {**ATTENTION, "H_cycles": 2, "L_cycles": 6, "puzzle_emb_len": 16, "hidden_size": 64, "num_heads": 8},
    ],
    ids=["mixer", "attention"],
)
def test_a_deep_trm_has_its_originals_bits(
    tmp_path: Path, variant: dict[str, object], mode: Callable
) -> None:
    """Dozens of passes blow a sum in another order up to a thousandth; so do faster products in some mode."""
    config = trm_config(**variant)
    weights = trm_weights(config, seed=2)
    tokens_BS = tokens(16, 5)
    truth = trm_truth(weights, config, tokens_BS, "")
    model = import_checkpoint(*written(tmp_path, weights, config)).model
    with mode():
        assert torch.equal(model(tokens_BS), truth["logits"])
        for stage, state_BTD in zip(model.stages, unrolled(model, tokens_BS), strict=True):
            assert torch.equal(state_BTD, truth[stage.name])


def test_rotary_tables_of_a_mixer_are_never_used(tmp_path: Path) -> None:
    """The original builds them with pos_encodings = rope, and its mixer blocks leave them alone."""
    config = trm_config(pos_encodings="rope")
    weights = trm_weights(config)
    same_trm(import_checkpoint(*written(tmp_path, weights, config)).model, weights, config)


def test_no_slots_in_the_config_means_as_many_as_the_prefix_fills(tmp_path: Path) -> None:
    config = trm_config(**ATTENTION)
    weights = trm_weights(config)
    path = written(tmp_path, weights, {**config, "puzzle_emb_len": 0})
    same_trm(import_checkpoint(*path).model, weights, config)


def test_options_alone_give_what_the_tensors_do_not_tell(tmp_path: Path) -> None:
    config = trm_config()
    weights = trm_weights(config)
    path, _ = written(tmp_path, weights, {})
    options = ShapeOptions(H_cycles=2, L_cycles=3, seq_len=5)
    same_trm(import_checkpoint(path, options=options).model, weights, config)


@pytest.mark.parametrize("word", ["None", "none", "alibi", "nope"])
def test_to_the_original_every_other_word_is_no_position_code(tmp_path: Path, word: str) -> None:
    """The reference study's published command says arch.pos_encodings=None."""
    for variant in ({"mlp_t": True}, ATTENTION):
        config = trm_config(**{**variant, "pos_encodings": "none"})
        weights = trm_weights(config)
        said = {**config, "pos_encodings": word}
        same_trm(import_checkpoint(*written(tmp_path, weights, said)).model, weights, config)


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_training_output_beside_its_config(tmp_path: Path, kind: str) -> None:
    """`step_N` and `all_config.yaml`: the model's keys stand under `arch`, the training's do not matter."""
    config = trm_config(**ATTENTION, name="recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1")
    config |= {"loss": {"name": "losses@ACTLossHead"}, "no_ACT_continue": True, "hidden_size": 24}
    weights = trm_weights(config, "module._orig_mod.model.")
    said = {name: value for name, value in config.items() if name != "seq_len"}
    tree = {"arch": {**said, "puzzle_emb_len": 3, "L_layers": 2}, "lr": 1e-4, "epochs": 10}
    torch.save(weights, tmp_path / "step_10")
    path = tmp_path / f"all_config.{kind}"
    path.write_text(yaml.safe_dump(tree) if kind == "yaml" else json.dumps(tree))
    config_path = None if kind == "yaml" else path
    model = import_checkpoint(tmp_path / "step_10", config_path, ShapeOptions(seq_len=5)).model
    same_trm(model, weights, config, "module._orig_mod.model.")


def test_hydra_links_of_an_arch_file(tmp_path: Path) -> None:
    config = trm_config(**ATTENTION, puzzle_emb_ndim=24)
    weights = trm_weights(config)
    written_ = written(tmp_path, weights, {**config, "puzzle_emb_ndim": "${.hidden_size}"})
    same_trm(import_checkpoint(*written_).model, weights, config)


def test_one_prefix_of_many(tmp_path: Path) -> None:
    config = trm_config(num_puzzle_identifiers=3)
    weights = trm_weights(config)
    many = {
        **weights,
        "inner.puzzle_emb.weights": torch.cat([torch.zeros(2, 60), weights["inner.puzzle_emb.weights"]]),
    }
    model = import_checkpoint(*written(tmp_path, many, config), ShapeOptions(puzzle=2)).model
    same_trm(model, weights, config)


def test_evaluations_in_a_row_are_as_many_times_the_cycles(tmp_path: Path) -> None:
    """The original goes on from the states of the evaluation before, with the same input embedding."""
    config = trm_config()
    weights = trm_weights(config)
    model = import_checkpoint(*written(tmp_path, weights, config), ShapeOptions(evaluations=3)).model
    more = {**config, "H_cycles": 6}
    assert len(model.stages) == 1 + 6 * 4
    torch.testing.assert_close(model(tokens(4, 5)), trm_truth(weights, more, tokens(4, 5))["logits"], **CLOSE)


def test_a_directory_of_shards_with_its_index(tmp_path: Path) -> None:
    config = gpt2_config()
    weights = {n: t for n, t in gpt2_weights(config).items() if n != "lm_head.weight"}
    names = sorted(weights)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({n: weights[n] for n in part}, tmp_path / file)
        places |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = gpt2_truth(gpt2_weights(config), config, tokens(4, 8), loops=1)[2]
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        torch.testing.assert_close(import_checkpoint(path).model(tokens(4, 8)), expected, **CLOSE)


@pytest.mark.parametrize("name", ["model", "state_dict", "model_state_dict"])
def test_a_state_dict_among_other_things(tmp_path: Path, name: str) -> None:
    config = trm_config()
    weights = trm_weights(config)
    path, config_path = written(tmp_path, weights, config)
    torch.save({name: weights, "epoch": 3, "optimizer_states": [{"lr": 0.1}]}, path)
    same_trm(import_checkpoint(path, config_path).model, weights, config)


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    config = trm_config()
    for dtype in (torch.bfloat16, torch.float16):
        weights = {name: t.to(dtype) for name, t in trm_weights(config).items()}
        model = import_checkpoint(*written(tmp_path, weights, config)).model
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        same_trm(model, weights, config)


@pytest.mark.parametrize("lead", ["", "transformer.", "net._orig_mod.transformer."])
@pytest.mark.parametrize("temperature", [None, 1.5])
@pytest.mark.parametrize(
    ("variant", "loops"),
    [({}, 2), ({"n_layer": 2}, 3), ({"activation_function": "relu", "n_inner": 40, "n_head": 4}, 1)],
    ids=["published", "three loops", "plain relu"],
)
def test_recurrent_gpt2(
    tmp_path: Path, variant: dict[str, object], loops: int, temperature: float | None, lead: str
) -> None:
    config = gpt2_config(**variant)
    weights = gpt2_weights(config, lead, masks=True)
    path, config_path = written(tmp_path, weights, config)
    options = ShapeOptions(loops=loops, reembed_temperature=temperature)
    model = import_checkpoint(path, config_path, options).model
    assert isinstance(model, LoopedModel)
    tokens_BT = tokens(16, 6)
    states, hidden, logits = gpt2_truth(
        weights, config, tokens_BT, lead=lead, loops=loops, temperature=temperature
    )
    for found, expected in zip(unrolled(model, tokens_BT), states, strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)
    for found, expected in zip(hidden_states(model, tokens_BT), hidden, strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(model(tokens_BT), logits, **CLOSE)


def test_gpt2_runs_as_often_as_its_config_says(tmp_path: Path) -> None:
    """Without add_recurrence it is a plain GPT-2; without any config nobody can know."""
    weights = gpt2_weights(gpt2_config())
    path, _ = written(tmp_path, weights, {})
    with pytest.raises(InputError, match="loops is missing"):
        import_checkpoint(path, options=ShapeOptions(n_head=2))
    for said, loops, temperature in [
        ({}, 1, None),
        ({"add_recurrence": True}, 2, None),
        ({"add_recurrence": False}, 1, None),
        ({"add_recurrence": True, "re_embed": False, "re_embed_temp": 0.5}, 2, None),
        ({"add_recurrence": True, "re_embed": True, "re_embed_temp": 0.5}, 2, 0.5),
    ]:
        model = import_checkpoint(*written(tmp_path, weights, gpt2_config(**said))).model
        assert (model.spec.loops, model.spec.reembed_temperature) == (loops, temperature)


def test_gpt2_with_a_head_of_its_own(tmp_path: Path) -> None:
    config = gpt2_config(tie_word_embeddings=False)
    weights = gpt2_weights(config)
    model = import_checkpoint(*written(tmp_path, weights, config)).model
    expected = gpt2_truth(weights, config, tokens(4, 8), loops=1)[2]
    torch.testing.assert_close(model(tokens(4, 8)), expected, **CLOSE)


def test_metadata_of_a_safetensors_file_is_its_config(tmp_path: Path) -> None:
    config = gpt2_config()
    weights = {n: t for n, t in gpt2_weights(config).items() if n != "lm_head.weight"}
    save_file(weights, tmp_path / "w.bin", metadata={"format": "pt", "config": json.dumps(config)})
    model = import_checkpoint(tmp_path / "w.bin").model
    expected = gpt2_truth(gpt2_weights(config), config, tokens(4, 8), loops=1)[2]
    torch.testing.assert_close(model(tokens(4, 8)), expected, **CLOSE)


def test_import_writes_a_model_that_load_gives_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = trm_config(**ATTENTION)
    weights = trm_weights(config)
    path, _ = written(tmp_path, weights, {})
    out = tmp_path / "model"
    told = "--H-cycles 2 --l-cycles 3 --num-heads 3 --pos-encodings rope --puzzle-emb-len 3 --seq-len 5"
    assert main(["import", str(path), "--out", str(out), *told.split()]) == 0
    assert "2 cycles of 3 thinking passes" in capsys.readouterr().out
    model = grokscope.load(out)
    assert not model.training
    same_trm(model, weights, config)
    assert sorted(p.name for p in out.iterdir()) == ["model.json", "model.safetensors"]
    assert grokscope.load(str(out), dtype="bfloat16").dtype == torch.bfloat16
    assert main(["import", str(path), "--out", str(out), *told.split()]) == 2  # never over another model


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["_orig_mod.", "module.", "model.", "net."]), max_size=3), st.booleans())
def test_only_leading_parts_are_stripped(parts: list[str], inner: bool) -> None:
    name = "L_level.layers.0.mlp.model._orig_mod.inner.weight"
    led = "".join(parts) + ("inner." if inner else "") + name
    assert list(strip({led: torch.zeros(1)}, LEAD, "L_level.layers.")) == [name]


def test_stages_are_one_pass_each(tmp_path: Path) -> None:
    """Init; then, in every cycle, the thinking passes in order and the commit."""
    config = trm_config(H_cycles=2, L_cycles=2)
    model = import_checkpoint(*written(tmp_path, trm_weights(config), config)).model
    names = ["init"]
    for cycle in range(2):
        names += [f"cycle{cycle}.think0", f"cycle{cycle}.think1", f"cycle{cycle}.commit"]
    assert [stage.name for stage in model.stages] == names
    states = unrolled(model, tokens(2, 5))
    assert all(not torch.equal(a, b) for a, b in pairwise(states))
