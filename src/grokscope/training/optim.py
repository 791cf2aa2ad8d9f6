"""The optimiser as a pure function: AdamW, Muon for block matrices, sign-SGD for prefix embeddings, Grokfast
before them, and the EMA after.

Every parameter that is trained belongs to one rule; decay is decoupled (weights shrink by lr * decay per
step, whatever the gradient).

    AdamW     m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
              p = p (1 - lr wd) - lr (m / c1) / (sqrt(v / c2) + 1e-8),  c = 1 - beta^(step + 1)
    Muon      m = mu m + (1 - mu) g;  u = orthogonalise(mu m + (1 - mu) g)  (Nesterov)
              p = p (1 - lr wd) - lr 0.2 sqrt(max(shape)) u:  an update has RMS 0.2 per entry, AdamW's usual
              size
    Grokfast  s = d s + (1 - d) g, from s = g on;  g = g + amplification s;  before the rules above, all
              parameters
    sign-SGD  p = p (1 - lr wd) - lr sign(g)
    EMA       a = d a + (1 - d) p,  d = min(ema, (1 + step) / (10 + step)): a young average forgets its start

Muon: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), the scale from Moonlight, arXiv
2502.16982. Grokfast: the EMA filter of Lee et al. 2024, arXiv 2405.20233. Sign-SGD and its rates are the TRM
reference's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from grokscope.errors import InputError
from grokscope.models.protocol import Group, Reasoner
from grokscope.training.schedule import rate
from grokscope.training.spec import Part, TrainingSpec

EPSILON = 1e-8
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MUON_RMS = 0.2
PARTS: dict[Group, Part] = {
    "embedding": "embedding",
    "prefix": "embedding",
    "position": "embedding",
    "blocks": "blocks",
    "head": "head",
}
"""Which part, as `freeze` names them, a group of parameters is in."""

Tensors = dict[str, Tensor]


class TrainState(NamedTuple):
    """All that an update changes, by parameter name, float32."""

    params: Tensors
    """The weights that are trained."""
    momentum: Tensors
    """First moments; sign-SGD has none."""
    second: Tensors
    """Second moments; AdamW only."""
    ema: Tensors
    """The average that is evaluated and kept."""
    slow: Tensors
    """Averages of the gradients; Grokfast only."""


class Optimizer:
    """The rule of every parameter. It holds settings only, no state: `update` is a pure function.

    Args:
        spec: rates, decays, EMA.
        model: names the parameters and their groups.

    Raises:
        InputError: a parameter has no group; Muon is asked for and the model has no block matrices; a part
            that is to be frozen has no weights of its own; or nothing would be trained.
    """

    def __init__(self, spec: TrainingSpec, model: Reasoner) -> None:
        self.spec = spec
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        groups = {name: model.group_of(name) for name in shapes}
        self.frozen = frozen_names(spec.freeze, model)
        matrices = [name for name, group in groups.items() if group == "blocks" and len(shapes[name]) == 2]
        if spec.optimizer.kind == "muon" and not matrices:
            raise InputError(
                "training.optimizer.kind = 'muon': needs a model with block matrices; 'adamw' takes any."
            )
        trained = [name for name in shapes if name not in self.frozen]
        self.sign = [name for name in trained if groups[name] == "prefix"]
        self.muon = [name for name in trained if spec.optimizer.kind == "muon" and name in matrices]
        self.adamw = [name for name in trained if name not in self.muon and name not in self.sign]
        self.stacks = _same_shape(self.muon, shapes)
        vectors = {name for name, shape in shapes.items() if len(shape) < 2 or groups[name] == "position"}
        self.undecayed = set() if spec.optimizer.decay_vectors else vectors

    def start(self, model: Reasoner) -> TrainState:
        """The state before the first step. The EMA tensors are the model's own: the model always holds the
        average."""
        params = {name: p.detach().clone() for name, p in model.named_parameters()}
        filtered = [*self.adamw, *self.muon, *self.sign] if self.spec.optimizer.grokfast else []
        return TrainState(
            params,
            {name: torch.zeros_like(params[name]) for name in (*self.adamw, *self.muon)},
            {name: torch.zeros_like(params[name]) for name in self.adamw},
            {name: p.detach() for name, p in model.named_parameters()},
            {name: torch.zeros_like(params[name]) for name in filtered},
        )

    def scalars(self, step: int) -> Tensor:
        """What changes from step to step, as one float32 tensor (so that no graph depends on it).

        lr of AdamW, lr of Muon, lr of sign-SGD, AdamW's two bias corrections, the weight of the new
        parameters in the EMA, and with Grokfast the weight of the gradient in its average.
        """
        settings, share = self.spec.optimizer, rate(self.spec, step)
        muon_lr = settings.lr if settings.muon_lr is None else settings.muon_lr
        keep = min(self.spec.ema, (1 + step) / (10 + step))
        scalars = [
            share * settings.lr,
            share * muon_lr,
            share * settings.prefix_lr,
            1 - settings.beta1 ** (step + 1),
            1 - settings.beta2 ** (step + 1),
            1 - keep,
        ]
        if settings.grokfast:
            scalars.append(1 - settings.grokfast_decay if step else 1.0)
        return torch.tensor(scalars)

    def standstill(self) -> Tensor:
        """`scalars` of an update that changes neither weights nor average."""
        scalars = self.scalars(0)
        scalars[[0, 1, 2, 5]] = 0
        return scalars

    def update(self, state: TrainState, grads: Tensors, scalars: Tensor) -> TrainState:
        """The state after one step, as new tensors but for what is frozen. `grads`: of all that is
        trained."""
        params, momentum, second, average, slow = state
        lr, muon_lr, sign_lr, correct1, correct2, fresh, *weights = scalars.unbind()
        settings = self.spec.optimizer
        if settings.grokfast:
            slow = {name: s.lerp(grads[name], weights[0]) for name, s in slow.items()}
            grads = {name: g + settings.grokfast * slow[name] for name, g in grads.items()}
        new_params, new_momentum, new_second = dict(params), dict(momentum), dict(second)

        for name in self.adamw:
            p, g = params[name], grads[name]
            m = momentum[name].lerp(g, 1 - settings.beta1)
            v = second[name].lerp(g * g, 1 - settings.beta2)
            change = lr * (m / correct1) / ((v / correct2).sqrt() + EPSILON)
            decay = 0.0 if name in self.undecayed else settings.weight_decay
            new_params[name] = p * (1 - lr * decay) - change
            new_momentum[name], new_second[name] = m, v

        decay = settings.weight_decay if settings.muon_weight_decay is None else settings.muon_weight_decay
        wanted: Tensors = {}
        for name in self.muon:
            new_momentum[name] = momentum[name].lerp(grads[name], 1 - settings.momentum)
            wanted[name] = grads[name].lerp(new_momentum[name], settings.momentum)
        for name, direction in orthogonalise_all(wanted, self.stacks).items():
            scale = MUON_RMS * max(direction.shape) ** 0.5
            new_params[name] = params[name] * (1 - muon_lr * decay) - direction * (muon_lr * scale)

        for name in self.sign:
            kept = params[name] * (1 - sign_lr * settings.prefix_weight_decay)
            new_params[name] = kept - sign_lr * grads[name].sign()

        new_average = {
            name: average[name] if name in self.frozen else average[name].lerp(p, fresh)
            for name, p in new_params.items()
        }
        return TrainState(new_params, new_momentum, new_second, new_average, slow)


def frozen_names(parts: Sequence[Part], model: Reasoner) -> frozenset[str]:
    """The parameters of these parts of a model.

    Raises:
        InputError: a part has no parameters, or the parts are all there is.
    """
    part_of = {name: PARTS[model.group_of(name)] for name, _ in model.named_parameters()}
    for part in parts:
        if part not in part_of.values():
            raise InputError(
                f"training.freeze = {part!r}: this model has no weights there (a tied head is the embedding)."
            )
    frozen = frozenset(name for name, part in part_of.items() if part in parts)
    if len(frozen) == len(part_of):
        raise InputError(f"training.freeze = {list(parts)}: nothing would be trained.")
    return frozen


def orthogonalise(matrices: Tensor) -> Tensor:
    """Newton-Schulz in bfloat16 towards the nearest semi-orthogonal matrix; singular values end near 1 (0.7
    to 1.2).

    Args:
        matrices: (..., rows, columns). The smaller of x x^T and x^T x is iterated; nothing is transposed.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = (matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)).bfloat16()
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x.mT @ x if tall else x @ x.mT
        polynomial = b * square + c * (square @ square)
        x = a * x + (x @ polynomial if tall else polynomial @ x)
    return x.float()


def orthogonalise_all(matrices: Tensors, stacks: list[list[str]]) -> Tensors:
    """Every matrix orthogonalised; those of one stack have the same shape and go through as one."""
    out: Tensors = {}
    for names in stacks:
        together = orthogonalise(torch.stack([matrices[name] for name in names]))
        out |= dict(zip(names, together.unbind(), strict=True))
    return out


def _same_shape(names: list[str], shapes: dict[str, tuple[int, ...]]) -> list[list[str]]:
    stacks: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        stacks.setdefault(shapes[name], []).append(name)
    return list(stacks.values())
