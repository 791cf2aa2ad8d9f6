"""What cannot be read, contradicts itself or cannot be represented is one sentence that names it."""

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import grokscope
from grokscope.cli import main
from grokscope.errors import InputError
from grokscope.models.published.importing import import_checkpoint
from grokscope.models.published.options import ShapeOptions
from tests.models.published import gpt2_config, gpt2_weights, trm_config, trm_weights

ATTENTION = {"mlp_t": False, "pos_encodings": "rope"}


def read(tmp_path: Path, weights: object, config: dict[str, Any], **options: Any) -> Any:
    torch.save(weights, tmp_path / "w.pt")
    (tmp_path / "c.json").write_text(json.dumps(config))
    return import_checkpoint(tmp_path / "w.pt", tmp_path / "c.json", ShapeOptions(**options)).model


def refused(tmp_path: Path, words: str, weights: object, config: dict[str, Any], **options: Any) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as error:
        read(tmp_path, weights, config, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 32}, "hidden_size = 32: contradicts"),
        ({"vocab_size": 99}, "vocab_size = 99: contradicts"),
        ({"L_layers": 3}, "L_layers = 3: contradicts"),
        ({"mlp_t": True}, "mlp_t = True: contradicts"),
        ({"expansion": 40}, "expansion = 40.0 does not give"),
        ({"num_heads": 5}, "heads 5 must divide width 24"),
        ({"num_heads": None}, "num_heads is missing"),
        ({"num_heads": True}, "num_heads = True: must be a whole number"),
        ({"H_cycles": 0}, "H_cycles = 0: must be"),
        ({"H_cycles": None}, "H_cycles is missing"),
        ({"L_cycles": 2.5}, "L_cycles = 2.5: must be a whole number"),
        ({"H_cycles": 10**9}, "H_cycles = 1000000000: must be"),
        ({"pos_encodings": "learned"}, "pos_encodings = 'learned': the checkpoint does not have"),
        ({"pos_encodings": "alibi"}, "pos_encodings = 'alibi': what can be represented is"),
        ({"pos_encodings": None}, "pos_encodings is missing"),
        ({"puzzle_emb_len": 2}, "puzzle_emb_len = 2: contradicts"),
        ({"puzzle_emb_len": None}, "puzzle_emb_len is missing"),
        ({"puzzle_emb_ndim": 24}, "puzzle_emb_ndim = 24: contradicts"),
        ({"num_puzzle_identifiers": 7}, "num_puzzle_identifiers = 7: contradicts"),
        ({"seq_len": None}, "seq_len is missing"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps = 1e-06: only 1e-05"),
        ({"rope_theta": 500}, "rope_theta = 500: only 10000"),
        ({"causal": True}, "causal = True: only False"),
        ({"window": 3}, "window = 3: this config key is not known"),
    ],
    ids=str,
)
def test_trm_config_that_does_not_fit(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    config = trm_config(**ATTENTION)
    refused(tmp_path, words, trm_weights(config), {**config, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_layer": 2}, "n_layer = 2: contradicts"),
        ({"n_head": None}, "n_head is missing"),
        ({"n_head": 3}, "heads 3 must divide width 16"),
        ({"n_embd": 8}, "n_embd = 8: contradicts"),
        ({"n_positions": 16}, "n_positions = 16: contradicts"),
        ({"n_inner": 32}, "n_inner = 32: contradicts"),
        (
            {"activation_function": "gelu"},
            "activation_function = 'gelu': what can be represented is gelu_new",
        ),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"share_mlp": True}, "share_mlp = True"),
        ({"model_type": "gpt_neo"}, "model_type = 'gpt_neo'"),
        ({"tie_word_embeddings": False}, "no lm_head.weight"),
        ({"quantization_config": {"bits": 8}}, "quantization_config"),
        ({"re_embed": True}, "re_embed_temp is missing"),
        ({"reembed_temperature": -1}, "reembed_temperature = -1: must be a number above 0"),
        ({"add_recurrence": False, "loops": 2}, "loops = 2: contradicts add_recurrence = False"),
    ],
    ids=str,
)
def test_gpt2_config_that_does_not_fit(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    config = gpt2_config()
    weights = {n: t for n, t in gpt2_weights(config).items() if n != "lm_head.weight"}
    refused(tmp_path, words, weights, {**config, **change})


def test_options_and_config_must_agree(tmp_path: Path) -> None:
    config = trm_config()
    refused(tmp_path, "H_cycles = 2 in c.json, but 3 in the options", trm_weights(config), config, H_cycles=3)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("inner.H_level.layers.0.mlp.down_proj.weight", torch.zeros(3, 3), "no place for it"),
        ("inner.L_level.layers.2.mlp.down_proj.weight", torch.zeros(24, 256), "L_layers = 2: contradicts"),
        ("inner.L_level.layers.1.mlp.down_proj.bias", torch.zeros(24), "no place for it"),
        ("inner.L_level.layers.1.mlp.down_proj.weight", torch.zeros(24, 512), "has shape (24, 512)"),
        ("inner.lm_head.weight", torch.zeros(14, 24), "has shape (14, 24)"),
        ("inner.embed_tokens.embedding_weight", torch.zeros(13), "must have 2 axes"),
        ("inner.puzzle_emb.weights", torch.zeros(2, 60), "has 2 rows"),
        ("inner.H_init", torch.full((24,), float("nan")), "not finite"),
        ("inner.H_init", torch.zeros(24, dtype=torch.int64), "is int64"),
        ("model.inner.H_init", torch.zeros(24), "holds H_init twice"),
        ("inner.H_init", None, "is missing"),
        ("inner.q_head.bias", [1.0, 2.0], "holds list under 'inner.q_head.bias'"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, name: str, value: object, words: str) -> None:
    config = trm_config()
    weights: dict[str, Any] = trm_weights(config)
    if value is None:
        del weights[name]
    else:
        weights[name] = value
    config["num_puzzle_identifiers"] = None
    refused(tmp_path, words, weights, config)


def test_an_output_head_that_the_config_says_is_the_embedding(tmp_path: Path) -> None:
    weights = gpt2_weights(gpt2_config(tie_word_embeddings=False))
    refused(tmp_path, "lm_head.weight differs from wte.weight", weights, gpt2_config())


def test_linear_layout_of_gpt2_is_refused(tmp_path: Path) -> None:
    """Weights as (outputs, inputs) are another codebase's: they must not be taken for Conv1D."""
    weights = gpt2_weights(gpt2_config())
    weights = {n: t.T.contiguous() if ".c_attn.weight" in n else t for n, t in weights.items()}
    refused(tmp_path, "c_attn.weight has shape", weights, gpt2_config())


class Evil:
    """Unpickling it would make a directory."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_runs_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for number, payload in enumerate([Evil(trap), {**trm_weights(trm_config()), "inner.x": Evil(trap)}]):
        torch.save(payload, tmp_path / f"{number}.pt")
        (tmp_path / f"{number}.pkl").write_bytes(pickle.dumps(payload))
        for file in (f"{number}.pt", f"{number}.pkl"):
            with pytest.raises(InputError, match="neither safetensors nor a PyTorch file") as error:
                import_checkpoint(tmp_path / file)
            assert "weights_only" not in str(error.value)  # no advice to switch the protection off
    assert not trap.exists()


@pytest.mark.parametrize("size", [0, 5, 100, 5000])
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_cut_file_is_refused(tmp_path: Path, kind: str, size: int) -> None:
    path = tmp_path / f"w.{kind}"
    weights = trm_weights(trm_config())
    save_file(weights, path) if kind == "safetensors" else torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="neither safetensors nor"):
        import_checkpoint(path)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    for name, words in [
        ("none.pt", "no checkpoint file"),
        ("other.pt", "neither a TRM"),
        ("list.pt", "holds list"),
    ]:
        with pytest.raises(InputError, match=words):
            import_checkpoint(tmp_path / name)
    for text in ("[]", "{", "[" * 100_000):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(InputError, match="the config in"):
            import_checkpoint(tmp_path / "other.pt", tmp_path / "c.json")
    with pytest.raises(InputError, match="cannot be read"):
        import_checkpoint(tmp_path / "other.pt", tmp_path / "nowhere.json")


def test_command_says_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(trm_weights(trm_config()), tmp_path / "w.pt")
    out = tmp_path / "deep" / "model"
    assert main(["import", str(tmp_path / "w.pt"), "--out", str(out), "--seq-len", "5"]) == 2
    assert capsys.readouterr().err.startswith("error: H_cycles is missing")
    assert not out.parent.exists()


def test_a_damaged_model_directory_is_refused(tmp_path: Path) -> None:
    torch.save(gpt2_weights(gpt2_config()), tmp_path / "w.pt")
    out = tmp_path / "model"
    assert main(["import", str(tmp_path / "w.pt"), "--out", str(out), "--n-head", "2"]) == 0
    grokscope.load(out)
    described, weights = (out / "model.json").read_text(), (out / "model.safetensors").read_bytes()
    tree = json.loads(described)

    def now(words: str) -> None:
        with pytest.raises(InputError, match=words):
            grokscope.load(out)
        (out / "model.json").write_text(described)
        (out / "model.safetensors").write_bytes(weights)

    (out / "model.json").write_text(json.dumps({**tree, "path": "/etc/passwd"}))
    now("unknown field 'path'")
    (out / "model.json").write_text(json.dumps({**tree, "vocab": 10**12}))
    now("do not fit")
    (out / "model.json").write_text(json.dumps({**tree, "model": {**tree["model"], "layers": 3}}))
    now("do not fit")
    (out / "model.safetensors").write_bytes(weights[:-4])
    now("is cut off: ")
    save_file(
        {n: t.double() for n, t in load_file(out / "model.safetensors").items()}, out / "model.safetensors"
    )
    now("do not fit")
    with pytest.raises(InputError, match="there is no model"):
        grokscope.load(tmp_path)
