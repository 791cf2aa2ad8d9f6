"""Reading a checkpoint that somebody else wrote, without running anything in it."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import InputError, quoted, shortened
from grokscope.files import kind_of, parse_json, read_json, read_text, reading
from grokscope.models.protocol import Reasoner
from grokscope.models.tensor_file import HEAD, read_safetensors
from grokscope.spec import read_yaml

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INDEX = ".index.json"
NAMES = ("model.safetensors", "pytorch_model.bin")
IN_DIRECTORY = tuple(name + end for name in NAMES for end in ("", INDEX))
"""What a directory may hold its checkpoint as, the first that is there."""
SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(\.\w+)")
WRAPS = ("state_dict", "model_state_dict", "model", "module", "net", "ema")
"""Names under which training programs keep the state dict among other things."""


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, and the config in its metadata (safetensors key "config"; else empty).

    What kind of file it is is seen from its first bytes. A PyTorch file is read with `weights_only=True`,
    which builds tensors and plain containers and calls nothing else.

    Args:
        path: a file, the index of several, or a directory with either under its Hugging Face name.

    Raises:
        InputError: there is no such file, it is neither kind, damaged, one of several, or holds anything but
            named tensors.
    """
    if path.is_dir():
        path = _inside(path)
    if path.name.endswith(INDEX):
        return _joined(path), {}
    if (shard := SHARD.fullmatch(path.name)) and int(shard[3]) > 1:
        index = f"{shard[1]}{shard[4]}{INDEX}"
        raise InputError(
            f"{path} is one of {int(shard[3])} files of a checkpoint: give their index, {index}."
        )
    return _read_file(path)


def _inside(directory: Path) -> Path:
    """The checkpoint in a directory."""
    for name in IN_DIRECTORY:
        if (directory / name).is_file():
            return directory / name
    raise InputError(
        f"{directory} is a directory without {', '.join(NAMES)} or an index of several files: give the "
        "checkpoint's file, or with --study a directory of step_1000, step_2000, ... for a run of them all."
    )


def _joined(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names."""
    tree = read_json(index, "index of a checkpoint")
    places = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(one, str) for one in places.values()):
        raise InputError(f"the index of a checkpoint at {index} has no weight_map of tensor names to files.")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise InputError(f"the index at {index} names {quoted(name)}: must be files beside it.")
        tensors |= _read_file(index.parent / name)[0]
    if missing := sorted(places.keys() - tensors.keys()):
        raise InputError(f"the index at {index} names {quoted(missing[0])}, which is in none of its files.")
    return tensors


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with reading(path, "checkpoint file"), path.open("rb") as handle:
        head = handle.read(512)
    if not head:
        raise InputError(f"the checkpoint at {path} is empty.")
    if head[HEAD : HEAD + 1] == b"{" or path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path, "checkpoint")
        text = metadata.get("config")
        config = {} if text is None else _object(parse_json(text, path, "config in the metadata"), path)
        return _only_tensors(tensors, path), config
    is_zip = head.startswith(b"PK\x03\x04")
    if is_zip and not zipfile.is_zipfile(path):
        raise InputError(f"the checkpoint at {path} is cut off: it lacks the end of a PyTorch file.")
    if is_zip and not any(name.endswith("data.pkl") for name in _members(path)):
        raise InputError(f"the checkpoint at {path} is a ZIP archive: must be safetensors or a PyTorch file.")
    if not is_zip and (kind := kind_of(head)):
        raise InputError(f"the checkpoint at {path} is {kind}.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may fail in any way that its parser knows
        raise InputError(
            f"the checkpoint at {path} is neither safetensors nor a PyTorch file of tensors alone "
            f"({type(error).__name__} while reading it)."
        ) from None
    return _only_tensors(found, path), {}


def _members(path: Path) -> list[str]:
    """Names in a ZIP archive; of a damaged one, what a PyTorch file would have, so that PyTorch says it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return ["data.pkl"]


def read_config(path: Path) -> dict[str, Any]:
    """The config keys in a JSON or YAML file; where they stand under `arch` beside those of the training, as
    the TRM's own `all_config.yaml` has them, the former. A value `${.other}` is that of the other key.

    Raises:
        InputError: there is no such file, or it is not a mapping.
    """
    tree: Any
    if path.suffix in (".yaml", ".yml"):
        tree = read_yaml(path, "config")
    else:
        tree = parse_json(read_text(path, "config"), path, "config")
    tree = _object(tree, path)
    keys = tree["arch"] if isinstance(tree.get("arch"), dict) else tree
    found: dict[str, Any] = {}
    for key, value in keys.items():
        link = re.fullmatch(r"\$\{\.(\w+)\}", value) if isinstance(value, str) else None
        found[str(key)] = keys.get(link[1]) if link else value
    return found


def _object(tree: Any, path: Path) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise InputError(f"the config in {path} must be a JSON object, not {type(tree).__name__}.")
    return tree


def strip(tensors: dict[str, Tensor], prefix: str, anchor: str) -> dict[str, Tensor]:
    """The tensors without a leading part of their names.

    Args:
        tensors: by published name.
        prefix: regular expression of the parts that may lead.
        anchor: a published name, or how some begin; what else stands before it (`net.`, whatever a program
            calls the attribute) leads all names.

    Raises:
        InputError: two names become the same.
    """
    lead = next((name[: name.index(anchor)] for name in tensors if anchor in name), "")
    outer = re.fullmatch(f"(.*?)(?:{prefix})", lead)
    before = re.escape(outer[1]) if outer else ""
    short: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare = re.sub(f"^(?:{before})?(?:{prefix})", "", name)
        if bare in short:
            raise InputError(f"tensor {shortened(name)}: the checkpoint holds {shortened(bare)} twice.")
        short[bare] = tensor
    return short


def layer_count(tensors: dict[str, Tensor], pattern: str) -> int:
    """One more than the highest layer number that `pattern` (with one group) finds in the names."""
    found = [re.match(pattern, name) for name in tensors]
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)


def fill(
    model: Reasoner,
    tensors: Mapping[str, Tensor],
    ours: Mapping[str, str],
    transposed: re.Pattern[str] | None = None,
) -> None:
    """Copy published tensors into a model.

    Args:
        model: the model, changed in place.
        tensors: by published name.
        ours: published name -> name in the model's state dict, for every tensor of the model.
        transposed: of matrices with these published names ours is the transpose.

    Raises:
        InputError: tensors are missing, have another shape, or are some the model has no place for.
    """
    targets = model.state_dict()
    for name in sorted(set(tensors) - set(ours)):
        raise InputError(
            f"tensor {shortened(name)}: this model has no place for it, so it cannot be represented."
        )
    if missing := [name for name in ours if name not in tensors]:
        more = (
            f" and {len(missing) - 3} more are" if len(missing) > 3 else " are" if len(missing) > 1 else " is"
        )
        raise InputError(f"tensor {', '.join(missing[:3])}{more} missing in the checkpoint.")
    laid_out = {}
    for name, target in ours.items():
        turned = transposed is not None and transposed.fullmatch(name) is not None
        found, needed = tuple(tensors[name].shape), tuple(targets[target].shape)
        needed = needed[::-1] if turned else needed
        if found != needed:
            turn = ", of which it is the transpose" if found == needed[::-1] else ""
            raise InputError(
                f"tensor {name} has shape {found}: the rest of the checkpoint asks for {needed}{turn}."
            )
        laid_out[target] = tensors[name].T if turned else tensors[name]
    model.load_state_dict(laid_out)


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
    """The state dict that a file holds, or that stands in it under one of the names of `WRAPS`."""
    if not isinstance(found, dict) or not found:
        raise InputError(f"the checkpoint at {path} holds {type(found).__name__}: must be named tensors.")
    wrapped = [name for name in WRAPS if _is_state(found.get(name))]
    if len(wrapped) > 1:
        raise InputError(
            f"the checkpoint at {path} holds several state dicts ({', '.join(wrapped)}): save the one that "
            "is meant alone."
        )
    if wrapped:
        found = found[wrapped[0]]
    tensors = {}
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"the checkpoint at {path} holds {type(value).__name__} under {quoted(str(name))}: "
                "must be a state_dict, names and tensors alone."
            )
        tensors[name] = value.detach()
    return tensors


def _is_state(found: Any) -> bool:
    return isinstance(found, dict) and bool(found) and all(isinstance(one, Tensor) for one in found.values())


def floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32.

    Raises:
        InputError: one is no plain array of floating-point numbers, or holds one that is not finite.
    """
    wide = {}
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.dtype not in DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(
                f"tensor {shortened(name)} is {kind}: must be a plain array of "
                f"{', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}."
            )
        wide[name] = tensor.to(torch.float32)
        if not bool(torch.isfinite(wide[name]).all()):
            raise InputError(f"tensor {shortened(name)} holds numbers that are not finite in float32.")
    return wide
