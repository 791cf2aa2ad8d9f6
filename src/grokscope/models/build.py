"""From a spec to a model."""

import torch

from grokscope.errors import InputError
from grokscope.models.looped import LoopedModel
from grokscope.models.protocol import Reasoner
from grokscope.models.recursive import RecursiveModel
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.world.format import FormatSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_model(
    spec: LoopedSpec | RecursiveSpec,
    vocab: int,
    positions: int,
    fmt: FormatSpec,
    seed: int,
    dtype: str = "float32",
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
        InputError: a recursive model with causal attention, fewer than 1 token or position, or another dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}: must be one of {', '.join(DTYPES)}.")
    if vocab < 1 or positions < 1:
        raise InputError(f"vocab = {vocab}, positions = {positions}: both must be at least 1.")
    if not isinstance(spec, LoopedSpec) and fmt.attention == "causal":
        raise InputError(
            "format.attention = 'causal': a recursive model sees all positions, so it must be 'full'."
        )
    try:
        if isinstance(spec, LoopedSpec):
            return LoopedModel(spec, vocab, positions, fmt.attention == "causal", seed, DTYPES[dtype])
        return RecursiveModel(spec, vocab, positions, seed, DTYPES[dtype])
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise InputError(
            f"model.width = {spec.width}, model.layers = {spec.layers}: the weights do not fit this "
            "machine's memory."
        ) from None


def count_parameters(model: Reasoner) -> int:
    """Trained numbers, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())
