"""From a spec to a model."""

from importlib import import_module

import torch

from grokscope.errors import InputError
from grokscope.models.protocol import Reasoner
from grokscope.models.spec import ModelSpec
from grokscope.world.format import FormatSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_model(
    spec: ModelSpec, vocab: int, positions: int, fmt: FormatSpec, seed: int, dtype: str
) -> Reasoner:
    """A freshly initialised model on the CPU. Same arguments, same bytes; the global random state is not
    touched.

    Args:
        spec: the model.
        vocab: number of token ids V.
        positions: input positions S.
        fmt: says whether attention is causal or full.
        seed: seed of the stream "init".
        dtype: "float32" or "bfloat16", of the states; parameters are float32.

    Raises:
        InputError: a model that cannot be had in this format, fewer than 1 token or position, or another
            dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}: must be one of {', '.join(DTYPES)}.")
    if vocab < 1 or positions < 1:
        raise InputError(f"vocab = {vocab}, positions = {positions}: both must be at least 1.")
    try:
        module, _, name = spec.MODEL.partition(":")
        made: Reasoner = getattr(import_module(module), name)(
            spec, vocab, positions, fmt, seed, DTYPES[dtype]
        )
        return made
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        sizes = [f"model.{name} = {value}" for name, value in spec if name in ("width", "layers")]
        raise InputError(f"{', '.join(sizes)}: the weights do not fit this machine's memory.") from None


def count_parameters(model: Reasoner) -> int:
    """Trained numbers, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())
