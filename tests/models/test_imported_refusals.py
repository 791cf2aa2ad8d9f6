"""What cannot be read, contradicts itself or cannot be represented is one sentence that names it."""

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import grokscope
from grokscope.cli import main
from grokscope.errors import InputError
from grokscope.models.published.importing import import_checkpoint
from grokscope.models.published.options import ShapeOptions
from tests.models.published import gpt2_config, gpt2_weights, trm_config, trm_weights

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
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
        ({"pos_encodings": "rotary"}, "pos_encodings = 'rotary': to the original this is no position code"),
        ({"pos_encodings": 5}, "pos_encodings = 5: must be a text"),
        (
            {"H_cycles": None, "L_cycles": None, "num_heads": None, "seq_len": None},
            "seq_len, num_heads, H_cycles, L_cycles are missing",
        ),
        ({"puzzle": 1}, "puzzle = 1: puzzle_emb.weights has 1 rows"),
        ({"name": "recursive_reasoning.trm_singlez@TinyRecursiveReasoningModel_ACTV1"}, "only trm can be"),
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
        ("inner.H_level.layers.0.mlp.down_proj.weight", torch.zeros(3, 3), "is an HRM"),
        ("inner.L_level.layers.2.mlp.down_proj.weight", torch.zeros(24, 256), "L_layers = 2: contradicts"),
        ("inner.L_level.layers.1.mlp.down_proj.bias", torch.zeros(24), "no place for it"),
        ("inner.L_level.layers.1.mlp.down_proj.weight", torch.zeros(24, 512), "has shape (24, 512)"),
        ("inner.lm_head.weight", torch.zeros(14, 24), "has shape (14, 24)"),
        ("inner.embed_tokens.embedding_weight", torch.zeros(13), "must have 2 axes"),
        (
            "inner.puzzle_emb.weights",
            torch.zeros(2, 60),
            "2 rows, one for each puzzle: choose one, --puzzle 0",
        ),
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
    refused(tmp_path, "c_attn.weight has shape (48, 16), the layout of nn.Linear", weights, gpt2_config())
    weights = gpt2_weights(gpt2_config())
    weights = {n: t.T.contiguous() if "0.mlp.c_proj.weight" in n else t for n, t in weights.items()}
    refused(
        tmp_path,
        "0.mlp.c_proj.weight has shape (16, 64): the rest of the checkpoint asks for (64, 16), of which "
        "it is the transpose",
        weights,
        gpt2_config(),
    )


def test_an_archive_of_something_else_is_said_to_be_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.pt", x=np.zeros(3))
    (tmp_path / "a.pt.npz").rename(tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt is a ZIP archive: must be safetensors or a PyTorch file"):
        import_checkpoint(tmp_path / "a.pt")
    (tmp_path / "a.safetensors").write_text("not found, not found")
    with pytest.raises(InputError, match="is no safetensors file: it does not begin as one"):
        import_checkpoint(tmp_path / "a.safetensors")


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


@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [
        ("safetensors", 0, "is empty"),
        ("safetensors", 5, "cut off|damaged"),
        ("safetensors", 100, "is cut off: 100 of"),
        ("safetensors", 5000, "is cut off: 5,000 of"),
        ("pt", 0, "is empty"),
        ("pt", 5, "is cut off: it lacks the end"),
        ("pt", 5000, "is cut off: it lacks the end"),
    ],
)
def test_a_cut_file_is_refused(tmp_path: Path, kind: str, size: int, words: str) -> None:
    path = tmp_path / f"w.{kind}"
    weights = trm_weights(trm_config())
    save_file(weights, path) if kind == "safetensors" else torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=words):
        import_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (
            "w.safetensors",
            LFS,
            "a Git LFS pointer",
        ),
        ("w.bin", LFS, "a Git LFS pointer"),
        ("w.bin", b"<!DOCTYPE html><html></html>", r"a web page \(HTML\)"),
        ("w.safetensors", b"\x1f\x8b123", "compressed with gzip"),
        ("w.gguf", b"GGUF123", "a GGUF file"),
        (
            "model-00002-of-00003.safetensors",
            b"x",
            "one of 3 files .* index, model.safetensors.index",
        ),
        ("pytorch_model.bin.index.json", b"{}", "has no weight_map"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../b"}}', "must be files beside it"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "gone"}}', "there is no checkpoint file"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=words):
        import_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "is of Llama's kind"),
        ("base.h.0.attn.c_attn.lora_A.weight", "is a LoRA adapter"),
        ("transformer.core_block.0.mlp.fc.weight", "is a Huginn"),
        ("bert.encoder.layer.0.attention.self.query.weight", "is a BERT"),
    ],
)
def test_other_families_are_named(tmp_path: Path, tensor: str, words: str) -> None:
    torch.save({tensor: torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=words):
        import_checkpoint(tmp_path / "w.pt")


def test_a_directory_without_a_checkpoint_and_two_state_dicts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory without"):
        import_checkpoint(tmp_path)
    weights = trm_weights(trm_config())
    torch.save({"model": weights, "ema": weights, "step": 3}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"several state dicts \(model, ema\)"):
        import_checkpoint(tmp_path / "w.pt")


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
        with pytest.raises(InputError, match=r"the config (in|at)"):
            import_checkpoint(tmp_path / "other.pt", tmp_path / "c.json")
    with pytest.raises(InputError, match="there is no config"):
        import_checkpoint(tmp_path / "other.pt", tmp_path / "nowhere.json")


def test_command_says_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(trm_weights(trm_config()), tmp_path / "w.pt")
    out = tmp_path / "deep" / "model"
    assert main(["import", str(tmp_path / "w.pt"), "--out", str(out), "--seq-len", "5"]) == 2
    assert capsys.readouterr().err.startswith("error: H_cycles, L_cycles are missing")
    assert not out.parent.exists()


def test_a_damaged_model_directory_is_refused(tmp_path: Path) -> None:
    torch.save(gpt2_weights(gpt2_config()), tmp_path / "w.pt")
    out = tmp_path / "model"
    assert main(["import", str(tmp_path / "w.pt"), "--out", str(out), "--n-head", "2", "--loops", "2"]) == 0
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
