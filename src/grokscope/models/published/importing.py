"""From a checkpoint of a reference codebase to a model, with the same logits and states.

    imported = import_checkpoint(Path("step_1000.pt"), Path("config.json"), ShapeOptions(seq_len=5))
    save_model(Path("trm"), imported.model, imported.format)      # models/directory.py

The codebase is recognised by the names of the tensors. The shape comes from the tensors, a JSON or YAML
file with the original's config keys, the same JSON in the safetensors metadata, and options; where two of
them speak of the same thing they must agree.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from grokscope.errors import InputError, quoted
from grokscope.models.protocol import Reasoner
from grokscope.models.published import gpt2, trm
from grokscope.models.published.gpt2 import is_gpt2, read_gpt2
from grokscope.models.published.options import Keys, ShapeOptions
from grokscope.models.published.tensors import read_checkpoint, read_config
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


BESIDE = ("all_config.yaml", "config.json")
"""What a checkpoint's config is called beside it: by the TRM's training, and by Hugging Face."""
FAMILIES = (
    (r"H_level\.layers\.", "an HRM, which has two levels (tensors H_level.layers.. and L_level.layers..)"),
    (r"lora_[AB]\.", "a LoRA adapter: merge it into its model first"),
    (r"core_block\.\d", "a Huginn"),
    (r"gpt_neox\.layers\.", "a GPT-NeoX"),
    (r"layers\.\d+\.self_attn\.q_proj\.", "of Llama's kind (tensors layers.0.self_attn.q_proj..)"),
    (r"encoder\.layer\.\d+\.attention\.self\.", "a BERT"),
    (r"encoder\.block\.\d+\.layer\.", "a T5"),
    (r"layers\.\d+\.mixer\.(in_proj|A_log)", "a Mamba"),
)
"""Tensor names of other families, and what they are."""


def import_checkpoint(path: Path, config: Path | None = None, options: ShapeOptions = NOTHING) -> Imported:
    """Read a published checkpoint; half-precision weights are widened to float32.

    Args:
        path: safetensors, a PyTorch file of tensors (read with `weights_only=True`), the index of several
            such files, or a directory that holds them under their Hugging Face names.
        config: file with the original's config keys; None: the one beside the checkpoint (`BESIDE`), if there
            is one, the metadata of the file, and options.
        options: what neither says.

    Raises:
        InputError: the file cannot be read, is of neither codebase, or holds something that cannot be
            represented; the sentence names it.
    """
    tensors, metadata = read_checkpoint(path)
    if config is None and not metadata:
        folder = path if path.is_dir() else path.parent
        config = next((folder / name for name in BESIDE if (folder / name).is_file()), None)
    sources = [("the options", options.tree()), (f"the metadata of {path.name}", metadata)]
    if config is not None:
        sources.append((config.name, read_config(config)))
    keys = Keys(*sources)
    names = list(tensors)
    other = next(
        (said for pattern, said in FAMILIES if any(re.search(pattern, name) for name in names)), None
    )
    if other is None and is_trm(names):
        recursive = read_trm(tensors, keys).eval()
        return Imported(recursive, trm.FORMAT, trm.described(recursive))
    if other is None and is_gpt2(names):
        looped = read_gpt2(tensors, keys).eval()
        return Imported(looped, gpt2.FORMAT, gpt2.described(looped))
    if other is not None:
        raise InputError(f"the checkpoint at {path} is {other}: a TRM and a GPT-2 can be imported.")
    raise InputError(
        f"the checkpoint at {path} is neither a TRM (tensors L_level.layers..) nor a GPT-2 (tensors "
        f"h.0.attn.c_attn..): it holds {quoted(min(names))}."
    )
