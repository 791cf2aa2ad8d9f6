"""FLOPs of one example, by arithmetic: matrix products only, 2 FLOPs per multiply-add.

Norms, activations, softmax and embedding look-ups are left out (under a few per cent at usual widths).
Attention counts all T x T pairs, causal or not, as a product would compute them.

Symbols: T positions with prefix, D width, M inner width, V vocabulary.
"""

from grokscope.models.recursive import swiglu_inner
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.world.format import FormatSpec

HALTING_LOGITS = 2
"""Outputs of a recursive model's halting head."""


def forward_flops(spec: LoopedSpec | RecursiveSpec, vocab: int, positions: int, fmt: FormatSpec) -> int:
    """FLOPs of `model(tokens)` per example, with the loops of inference and logits at every input position.

    Args:
        spec: the model.
        vocab: token ids V.
        positions: input positions S.
        fmt: the format (its attention changes no count).
    """
    return _passes(spec, vocab, positions, _inference_loops(spec)) + _head(spec, vocab, positions)


def training_flops(
    spec: LoopedSpec | RecursiveSpec,
    vocab: int,
    positions: int,
    fmt: FormatSpec,
    loops: int | None = None,
) -> int:
    """FLOPs of one training step per example: forward, and twice the forward of whatever carries gradient.

    A recursive model runs all outer cycles forward and only the last one backward, and reads its halting head
    once. Logits are counted where there is a label. Where only some positions have one, the last block has an
    output of attention and an MLP at these (and at the halting head's) alone. The optimiser is not counted:
    its work does not grow with the examples (`training.flops`).

    Args:
        spec: the model.
        vocab: token ids V.
        positions: input positions S.
        fmt: the format.
        loops: loops (outer cycles) of the step; None: as in training.
    """
    labelled = _labelled(positions, fmt)
    outputs = _head(spec, vocab, labelled)
    if isinstance(spec, LoopedSpec):
        outputs -= _left_out(spec, positions, labelled) if labelled < positions else 0
        return 3 * (_passes(spec, vocab, positions, loops or spec.loops) + outputs)
    outputs += HALTING_LOGITS * 2 * spec.width
    outputs -= _left_out(spec, spec.prefix + positions, labelled + 1) if labelled < positions else 0
    cycle = _passes(spec, vocab, positions, 1)
    return ((loops or spec.h_cycles) - 1) * cycle + 3 * (cycle + outputs)


def evaluation_flops(spec: LoopedSpec | RecursiveSpec, vocab: int, positions: int, fmt: FormatSpec) -> int:
    """FLOPs of one probe's accuracy: loops of inference, logits where there is a label."""
    outputs = _head(spec, vocab, _labelled(positions, fmt))
    return _passes(spec, vocab, positions, _inference_loops(spec)) + outputs


def lens_flops(spec: LoopedSpec | RecursiveSpec, vocab: int, positions: int) -> int:
    """FLOPs of one probe's lens: one unrolled pass, and logits at every stage and input position."""
    loops = _inference_loops(spec)
    per_loop = spec.layers if isinstance(spec, LoopedSpec) else spec.l_cycles + 1
    logits = (1 + loops * per_loop) * _head(spec, vocab, positions)
    return _passes(spec, vocab, positions, loops) + logits


def _head(spec: LoopedSpec | RecursiveSpec, vocab: int, positions: int) -> int:
    return positions * 2 * spec.width * vocab


def _labelled(positions: int, fmt: FormatSpec) -> int:
    """Positions with a label: answer output 1, causal sequence output 2 (answer, end), full sequence all."""
    return 1 if fmt.output == "answer" else 2 if fmt.attention == "causal" else positions


def _inference_loops(spec: LoopedSpec | RecursiveSpec) -> int:
    if isinstance(spec, LoopedSpec):
        return spec.inference_loops or spec.loops
    return spec.inference_h_cycles or spec.h_cycles


def _left_out(spec: LoopedSpec | RecursiveSpec, total: int, read: int) -> int:
    """What the last block leaves out at the positions of `total` that nobody reads: all behind q, k and v."""
    rows, width = total - read, spec.width
    if isinstance(spec, RecursiveSpec):
        mlp = _gated(rows, width, swiglu_inner(spec.expansion, width))
        return mlp if spec.mixer else mlp + _seeing(rows, total, width)
    return _seeing(rows, total, width) + _mlp(spec, rows)


def _passes(spec: LoopedSpec | RecursiveSpec, vocab: int, positions: int, loops: int) -> int:
    """Everything between the embedding and the head."""
    if isinstance(spec, RecursiveSpec):
        total = spec.prefix + positions
        mlp = _gated(total, spec.width, swiglu_inner(spec.expansion, spec.width))
        mixing = (
            _gated(spec.width, total, swiglu_inner(spec.expansion, total))
            if spec.mixer
            else _attention(total, spec.width)
        )
        return loops * (spec.l_cycles + 1) * spec.layers * (mixing + mlp)
    between = 0 if spec.reembed_temperature is None else 4 * positions * spec.width * vocab
    return (
        loops * spec.layers * (_attention(positions, spec.width) + _mlp(spec, positions))
        + (loops - 1) * between
    )


def _attention(positions: int, width: int) -> int:
    """q, k and v maps (6 T D^2), and what comes behind them."""
    return 6 * positions * width**2 + _seeing(positions, positions, width)


def _seeing(rows: int, positions: int, width: int) -> int:
    """Scores of some positions and their sums (4 rows T D), output map (2 rows D^2)."""
    return 4 * rows * positions * width + 2 * rows * width**2


def _mlp(spec: LoopedSpec, rows: int) -> int:
    """A looped model's MLP on `rows` vectors."""
    inner = max(1, round(spec.expansion * spec.width))
    return _gated(rows, spec.width, inner) if spec.activation == "swiglu" else 4 * rows * spec.width * inner


def _gated(rows: int, width: int, inner: int) -> int:
    """SwiGLU on `rows` vectors: gate, up and down."""
    return 6 * rows * width * inner
