"""FLOPs of a whole training step: the examples' products, and the optimiser's."""

from collections.abc import Mapping

from grokscope.models.flops import training_flops
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.training.optim import NEWTON_SCHULZ_STEPS, Optimizer
from grokscope.training.spec import TrainingSpec
from grokscope.world.format import FormatSpec


def examples_flops(
    spec: TrainingSpec, model: LoopedSpec | RecursiveSpec, vocab: int, positions: int, fmt: FormatSpec
) -> float:
    """FLOPs of forward and backward over one batch; with random numbers of loops, of the mean step."""
    choices = spec.loop_choices or (None,)
    each = [training_flops(model, vocab, positions, fmt, loops) for loops in choices]
    return spec.batch * sum(each) / len(each)


def update_flops(optimizer: Optimizer, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """FLOPs of the matrix products of one update: Muon's Newton-Schulz iterations, whatever the batch.

    Per iteration on an (r, c) matrix, r <= c: x x^T (2 r^2 c), its square (2 r^3), and their sum times x
    (2 r^2 c). AdamW, sign-SGD and the EMA are elementwise and, as everywhere in these counts, left out.

    Args:
        optimizer: knows which parameters are Muon's.
        shapes: of all parameters, by name.
    """
    total = 0
    for name in optimizer.muon:
        rows, columns = sorted(shapes[name])
        total += NEWTON_SCHULZ_STEPS * (4 * rows**2 * columns + 2 * rows**3)
    return total
