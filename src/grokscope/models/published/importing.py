"""From a checkpoint of a reference codebase to a model, with the same logits and states.

    imported = import_checkpoint(Path("step_1000.pt"), Path("config.json"), ShapeOptions(seq_len=5))
    save_model(Path("trm"), imported.model, imported.format)      # models/directory.py

The codebase is recognised by the names of the tensors. The shape comes from the tensors, a JSON file with the
original's config keys, the same JSON in the safetensors metadata, and options; where two of them speak of the
same thing they must agree.
"""

from dataclasses import dataclass
from pathlib import Path

from grokscope.errors import InputError
from grokscope.models.protocol import Reasoner
from grokscope.models.published import gpt2, trm
from grokscope.models.published.gpt2 import is_gpt2, read_gpt2
from grokscope.models.published.options import Keys, ShapeOptions
from grokscope.models.published.tensors import parse_config, read_checkpoint
from grokscope.models.published.trm import is_trm, read_trm
from grokscope.world.format import FormatSpec

NOTHING = ShapeOptions()


@dataclass(frozen=True)
class Imported:
    """A published model, in eval mode with float32 states, and the format it was trained in."""

    model: Reasoner
    format: FormatSpec
    sentence: str
    """What was read, with the passes it makes: those a checkpoint of tensors does not tell."""


def import_checkpoint(path: Path, config: Path | None = None, options: ShapeOptions = NOTHING) -> Imported:
    """Read a published checkpoint; half-precision weights are widened to float32.

    Args:
        path: safetensors, or a PyTorch file of tensors (read with `weights_only=True`).
        config: JSON file with the original's config keys; None: the metadata of the file, and options.
        options: what neither says.

    Raises:
        InputError: the file cannot be read, is of neither codebase, or holds something that cannot be
            represented; the sentence names it.
    """
    tensors, metadata = read_checkpoint(path)
    sources = [("the options", options.tree()), (f"the metadata of {path.name}", metadata)]
    if config is not None:
        sources.append((config.name, read_config(config)))
    keys = Keys(*sources)
    names = list(tensors)
    if is_trm(names):
        recursive = read_trm(tensors, keys).eval()
        return Imported(recursive, trm.FORMAT, trm.described(recursive))
    if is_gpt2(names):
        looped = read_gpt2(tensors, keys).eval()
        return Imported(looped, gpt2.FORMAT, gpt2.described(looped))
    raise InputError(
        f"the checkpoint at {path} is neither a TRM (tensors L_level.layers..) nor a GPT-2 (tensors "
        f"h.0.attn.c_attn..): it holds {min(names)!r}."
    )


def read_config(path: Path) -> dict[str, object]:
    """The JSON object in a file.

    Raises:
        InputError: there is no such file, or it is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the config at {path} cannot be read: {error}.") from None
    return parse_config(text, str(path))
