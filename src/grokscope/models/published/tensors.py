"""Reading a checkpoint that somebody else wrote, without running anything in it."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from grokscope.errors import InputError
from grokscope.models.protocol import Reasoner

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, and the config in its metadata (safetensors key "config"; else empty).

    What kind of file it is is seen from its first bytes. A PyTorch file is read with `weights_only=True`,
    which builds tensors and plain containers and calls nothing else.

    Raises:
        InputError: there is no such file, or it is neither kind, damaged, or holds anything but named
            tensors.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint file at {path}.")
    config: dict[str, Any] = {}
    with path.open("rb") as handle:
        is_safetensors = handle.read(9)[8:] == b"{"
    try:
        if is_safetensors:
            with safe_open(path, framework="pt") as handle:
                found: Any = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
                text = (handle.metadata() or {}).get("config")
        else:
            found, text = torch.load(path, map_location="cpu", weights_only=True), None
    except Exception as error:  # a foreign file may fail in any way that its parser knows
        raise InputError(
            f"the checkpoint at {path} is neither safetensors nor a PyTorch file of tensors alone "
            f"({type(error).__name__} while reading it)."
        ) from None
    if text is not None:
        config = parse_config(text, f"the metadata of {path}")
    return _only_tensors(found, path), config


def parse_config(text: str, source: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is not one.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the config in {source} is not JSON: {error}.") from None
    if not isinstance(tree, dict):
        raise InputError(f"the config in {source} must be a JSON object, not {type(tree).__name__}.")
    return tree


def strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors without a leading part of their names.

    Args:
        tensors: by published name.
        prefix: regular expression of the parts that may lead.

    Raises:
        InputError: two names become the same.
    """
    short: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare = re.sub(f"^(?:{prefix})", "", name)
        if bare in short:
            raise InputError(f"tensor {name}: the checkpoint holds {bare} twice.")
        short[bare] = tensor
    return short


def layer_count(tensors: dict[str, Tensor], pattern: str) -> int:
    """One more than the highest layer number that `pattern` (with one group) finds in the names."""
    found = [re.match(pattern, name) for name in tensors]
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)


def fill(model: Reasoner, tensors: dict[str, Tensor], ours: dict[str, str]) -> None:
    """Copy published tensors into a model.

    Args:
        model: the model, changed in place.
        tensors: by published name, already laid out as ours are.
        ours: published name -> name in the model's state dict, for every tensor of the model.

    Raises:
        InputError: a tensor is missing, has another shape, or is one the model has no place for.
    """
    targets = model.state_dict()
    for name in sorted(set(tensors) - set(ours)):
        raise InputError(f"tensor {name}: this model has no place for it, so it cannot be represented.")
    for name in ours:
        if name not in tensors:
            raise InputError(f"tensor {name} is missing in the checkpoint.")
        found, needed = tuple(tensors[name].shape), tuple(targets[ours[name]].shape)
        if found != needed:
            raise InputError(
                f"tensor {name} has shape {found}: the rest of the checkpoint asks for {needed}."
            )
    model.load_state_dict({ours[name]: tensors[name] for name in ours})


def size(model: Reasoner, width: int) -> str:
    """A model's size, as part of a sentence."""
    return f"width {width}, {model.vocab:,} token ids, {model.positions} input positions"


def dims(tensors: dict[str, Tensor], name: str, count: int = 2) -> tuple[int, ...]:
    """The shape of a tensor that must be there and have `count` axes.

    Raises:
        InputError: it is missing or has another number of axes.
    """
    if name not in tensors:
        raise InputError(f"tensor {name} is missing in the checkpoint.")
    shape = tuple(tensors[name].shape)
    if len(shape) != count or 0 in shape:
        raise InputError(f"tensor {name} has shape {shape}: must have {count} axes, none of length 0.")
    return shape


def _only_tensors(found: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(found, dict) or not found:
        raise InputError(f"the checkpoint at {path} holds {type(found).__name__}: must be named tensors.")
    tensors = {}
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"the checkpoint at {path} holds {type(value).__name__} under {str(name)[:80]!r}: "
                "must be a state_dict, names and tensors alone."
            )
        tensors[name] = value.detach()
    return tensors


def floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32.

    Raises:
        InputError: one is no plain array of floating-point numbers, or holds one that is not finite.
    """
    wide = {}
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.dtype not in DTYPES:
            raise InputError(
                f"tensor {name} is {str(tensor.dtype).removeprefix('torch.')}: must be a plain array of "
                f"{', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}."
            )
        wide[name] = tensor.to(torch.float32)
        if not bool(torch.isfinite(wide[name]).all()):
            raise InputError(f"tensor {name} holds numbers that are not finite in float32.")
    return wide
