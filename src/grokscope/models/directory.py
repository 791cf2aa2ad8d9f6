"""A model as a directory that explains itself.

DIR/model.json           the spec, and what else it takes to build the model
DIR/model.safetensors    parameters and buffers, float32
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors.torch import save

from grokscope.errors import InputError
from grokscope.files import read_json, vacant, whole, write_json
from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.models.spec import AnyModel
from grokscope.models.tensor_file import read_safetensors
from grokscope.spec import Spec
from grokscope.world.format import FormatSpec

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


class ModelFile(Spec):
    """What `model.json` says."""

    version: Literal[1] = 1
    """Of this layout."""
    vocab: int = Field(ge=1)
    """Token ids V."""
    positions: int = Field(ge=1)
    """Input positions S."""
    format: FormatSpec
    """How queries become tokens: attention and output."""
    model: AnyModel
    """The architecture."""


def save_model(directory: Path, model: Reasoner, fmt: FormatSpec) -> None:
    """Write a model, whole or not at all.

    Args:
        directory: must not exist yet or be empty.
        model: the model, built from a spec.
        fmt: the format of its queries.

    Raises:
        InputError: the directory holds something, or is a file; the model has no spec.
    """
    directory = vacant(directory)
    if model.spec is None:
        raise InputError(f"{type(model).__name__}: a model that was not built from a spec cannot be kept.")
    described = ModelFile(vocab=model.vocab, positions=model.positions, format=fmt, model=model.spec)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole(directory) as draft:
        draft.mkdir()
        (draft / WEIGHTS).write_bytes(save(tensors))
        write_json(draft / DESCRIPTION, described.tree())


def load_model(directory: Path, dtype: str = "float32") -> Reasoner:
    """Read a model that `save_model` wrote, in eval mode.

    Args:
        directory: the model's directory.
        dtype: of its states, "float32" or "bfloat16".

    Raises:
        InputError: there is no model, or its files are damaged or do not fit each other.
    """
    path = directory / DESCRIPTION
    said = ModelFile.parse(read_json(path, "model"), str(path))
    weights = directory / WEIGHTS
    tensors, _ = read_safetensors(weights, "weights file")
    if all(t.shape[:1] != (said.vocab,) for t in tensors.values()):
        raise InputError(f"the weights at {weights} do not fit {path}: none has {said.vocab} rows.")
    model = build_model(said.model, said.vocab, said.positions, said.format, seed=0, dtype=dtype)
    needed = {name: (tuple(t.shape), torch.float32) for name, t in model.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    for name in sorted(needed.keys() | found.keys()):
        if needed.get(name) != found.get(name):
            raise InputError(f"the weights at {weights} do not fit {path}: see tensor {name}.")
    model.load_state_dict(tensors)
    return model.eval()
