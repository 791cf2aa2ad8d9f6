"""What decides when a run learns its compositions, and when it answers OOD ones: a law over many cells.

A cell is what the runs of several seeds share. Two times are modelled alike, that of saturation and that of
OOD accuracy, each as log-normal (accelerated failure time):

    log T = b_0 + sum_k b_k x_k + s * noise

x are logarithms of what describes a world, its supervision and a model (`DESCRIBED`), centred and scaled. A
run is known to have reached an event between two checkpoints, or not by its end (censored); both enter the
likelihood as they are. Every b_k has a normal prior of standard deviation `PRIOR`, so that a predictor that
separates the runs stays finite.

What becomes of a run within a budget follows from both times: it does not learn its compositions, remembers
them, or answers OOD ones at once or after a delay (more than `delay` times saturation). The residuals of both
times are taken as a pair with the correlation seen among runs that have both.

Simpler laws stand beside it (`LAWS`): phi alone; k alone, in how many compositions an OOD fact is trained
(the k of k-coverage, arXiv 2505.20278, which for a composition of two facts asks in how many contexts each
was seen); bits per parameter.

Shape suffixes: U runs, K predictors, D draws, F fates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from grokscope.errors import InputError
from grokscope.models.build import count_parameters
from grokscope.runs.job import RunSpec
from grokscope.runs.setup import RunSetup
from grokscope.statistics.times import Time
from grokscope.world.injection import partners_per_fact

Floats = NDArray[np.float64]
Described: TypeAlias = Mapping[str, float] | Mapping[str, Floats]
"""Predictors of one run, or of many."""
Fate: TypeAlias = Literal["not learned", "remembers", "composes at once", "composes after a delay"]
FATES: tuple[Fate, ...] = get_args(Fate)

DESCRIBED = ("phi", "degree", "entities", "OOD share", "k first", "k second", "skew", "width")
LAWS: dict[str, tuple[str, ...]] = {
    "all": DESCRIBED,
    "phi alone": ("phi",),
    "k alone": ("k first", "k second"),
    "bits per parameter": ("bits per parameter",),
    "none": (),
}
"""By name, the predictors of a law; "none" knows how often things happen."""
PRIOR = 2.0
"""Of a coefficient, in e-folds of time per standard deviation of the predictor: a factor of 7."""
LOG_ROOT = 0.5 * np.log(2 * np.pi)
MOST = 300.0
"""Of a logarithm in a slope: of a run that a first guess thinks impossible it is finite so."""
DRAWS = 20_000
"""Of both times, where one run is predicted."""


def describe(spec: RunSpec) -> dict[str, float]:
    """What a law may know of a run, before it is trained: logarithms to base 2; k plus one; skew as it is.

    Bits per parameter are those of all trained compositions' answers, remembered one by one.

    Raises:
        InputError: the spec cannot be honoured, or nothing is composed or OOD.
    """
    for field, value in (("corpus.phi", spec.corpus.phi), ("world.ood_fraction", spec.world.ood_fraction)):
        if value <= 0:
            raise InputError(f"{field} = {value:g}: a law of it needs more than 0.")
    k_1, k_2 = (
        ratio * partners_per_fact(spec.regime, hop, spec.corpus.phi) if ratio else 0.0
        for hop, (ratio, _) in enumerate(spec.regime.injection[:2])
    )
    setup = RunSetup(spec)
    bits = len(setup.corpus.composition) * np.log2(setup.world.entities)
    return {
        "phi": float(np.log2(spec.corpus.phi)),
        "degree": float(np.log2(spec.world.degree)),
        "entities": float(np.log2(setup.world.entities)),
        "OOD share": float(np.log2(spec.world.ood_fraction)),
        "k first": float(np.log2(1 + k_1)),
        "k second": float(np.log2(1 + k_2)),
        "skew": spec.corpus.skew,
        "width": float(np.log2(getattr(spec.model, "width", 1))),
        "bits per parameter": float(np.log2(bits / count_parameters(setup.model()))),
    }


@dataclass(frozen=True, eq=False)
class TimeLaw:
    """A fitted law of one time."""

    names: tuple[str, ...]
    """Predictors that vary among the runs it was fitted on."""
    centre_K: Floats
    scale_K: Floats
    weight_K: Floats
    """e-folds of time per standard deviation of each predictor."""
    level: float
    """Mean log time of a run with average predictors."""
    noise: float
    """Standard deviation of a run's log time about its mean."""

    def mean(self, described: Described) -> Floats:
        """Mean log time: of one run, or of as many as the values of `described` are arrays long."""
        terms = zip(self.names, self.centre_K, self.scale_K, self.weight_K, strict=True)
        return np.asarray(self.level + sum(w * (described[name] - c) / s for name, c, s, w in terms))

    def per_doubling(self, name: str) -> float:
        """Factor of time when a predictor doubles (skew: rises by one); 1 if it did not vary."""
        if name not in self.names:
            return 1.0
        place = self.names.index(name)
        return float(np.exp(self.weight_K[place] / self.scale_K[place]))


def fit(described: Sequence[Mapping[str, float]], times: Sequence[Time], names: Sequence[str]) -> TimeLaw:
    """The law of highest penalised likelihood.

    Args:
        described: `describe` of every run. times: of the event, in the same order. names: predictors; those
            that do not vary are left out.

    Raises:
        InputError: there is no run with the event, so that no time is known.
    """
    if not any(time.by is not None for time in times):
        raise InputError(f"none of {len(times)} runs has the event: there is no time to learn from.")
    x_UK = np.array([[one[name] for name in names] for one in described]).reshape(len(times), len(names))
    varies_K = np.ptp(x_UK, axis=0) > 1e-9
    x_UK = x_UK[:, varies_K]
    centre_K, scale_K = x_UK.mean(axis=0), x_UK.std(axis=0)
    z_UK = (x_UK - centre_K) / scale_K
    low_U, high_U = bounds_of(times)
    start_U = np.where(np.isfinite(high_U), high_U, low_U)

    def loss(value: Floats) -> tuple[float, Floats]:
        chance_U, slope_U2 = log_chance(low_U, high_U, value[0] + z_UK @ value[2:], np.exp(value[1]))
        slope = np.concatenate([slope_U2.sum(axis=0), slope_U2[:, 0] @ z_UK - value[2:] / PRIOR**2])
        return float(0.5 * (value[2:] ** 2).sum() / PRIOR**2 - chance_U.sum()), -slope

    first = np.concatenate([[start_U.mean(), np.log(start_U.std() + 0.1)], np.zeros(z_UK.shape[1])])
    bounds = [(None, None), (np.log(0.02), np.log(20.0)), *[(None, None)] * z_UK.shape[1]]
    found = optimize.minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds).x
    kept = tuple(name for name, varies in zip(names, varies_K, strict=True) if varies)
    return TimeLaw(kept, centre_K, scale_K, found[2:], float(found[0]), float(np.exp(found[1])))


def bounds_of(times: Sequence[Time]) -> tuple[Floats, Floats]:
    """(U,) logarithms between which every time is known to lie; of a censored one the upper is infinite."""
    with np.errstate(divide="ignore"):
        low_U = np.log([time.until if time.by is None else time.after for time in times])
    return low_U, np.log([np.inf if time.by is None else time.by for time in times])


def log_chance(low_U: Floats, high_U: Floats, mean_U: Floats, noise: float) -> tuple[Floats, Floats]:
    """(U,) log probability that a normal variable lies between, in the tail where its digits are kept, and
    (U, 2) its slope in the mean and in the logarithm of the noise."""
    one_U, two_U = (low_U - mean_U) / noise, (high_U - mean_U) / noise
    right_U = one_U > 0
    near_U, far_U = np.where(right_U, -one_U, two_U), np.where(right_U, -two_U, one_U)
    most_U = special.log_ndtr(near_U)
    out_U: Floats = most_U + np.log1p(-np.exp(np.minimum(special.log_ndtr(far_U) - most_U, -1e-12)))
    slope_U2 = np.zeros((*out_U.shape, 2))
    for sign, end_U in ((1.0, one_U), (-1.0, two_U)):
        at_U = np.where(np.isfinite(end_U), end_U, 0.0)  # an infinite end has no density
        density_U = np.where(
            np.isfinite(end_U), np.exp(np.minimum(-0.5 * at_U**2 - LOG_ROOT - out_U, MOST)), 0.0
        )
        slope_U2 += sign * density_U[..., None] * np.stack([np.full_like(at_U, 1 / noise), at_U], axis=-1)
    return out_U, slope_U2


@dataclass(frozen=True, eq=False)
class Law:
    """Laws of both times, by the same predictors."""

    saturation: TimeLaw
    generalisation: TimeLaw
    correlation: float
    """Of their residuals."""

    def fates(self, described: Described, budget: float, delay: float, draws: int = DRAWS) -> Floats:
        """(..., F) the chance of every fate of runs of `budget` steps, in the order of `FATES`.

        Args:
            described: of a run, or of several. delay: times saturation, beyond which OOD answers are late.
            draws: of both times, by which fates are weighed; their shares are known to 0.5 / sqrt(draws).
        """
        draw_2D = np.random.default_rng(0).standard_normal((2, draws))
        draw_2D[1] = self.correlation * draw_2D[0] + np.sqrt(1 - self.correlation**2) * draw_2D[1]
        saturated_D = self.saturation.mean(described)[..., None] + self.saturation.noise * draw_2D[0]
        answered_D = self.generalisation.mean(described)[..., None] + self.generalisation.noise * draw_2D[1]
        within_D = answered_D <= np.log(budget)
        late_D = answered_D > saturated_D + np.log(delay)
        learned_D = saturated_D <= np.log(budget)
        shares = (~within_D & ~learned_D, ~within_D & learned_D, within_D & ~late_D, within_D & late_D)
        return np.stack([share_D.mean(axis=-1) for share_D in shares], axis=-1)


def fit_both(
    described: Sequence[Mapping[str, float]],
    saturations: Sequence[Time],
    generalisations: Sequence[Time],
    names: Sequence[str] = DESCRIBED,
) -> Law:
    """Laws of both times.

    Raises:
        InputError: one of the events never happened.
    """
    first, second = fit(described, saturations, names), fit(described, generalisations, names)
    residual_2X = np.array(
        [
            [np.log(one.by) - first.mean(x), np.log(two.by) - second.mean(x)]
            for x, one, two in zip(described, saturations, generalisations, strict=True)
            if one.by is not None and two.by is not None
        ]
    ).T
    many = residual_2X.ndim == 2 and residual_2X.shape[1] > 2 and (residual_2X.std(axis=1) > 0).all()
    return Law(first, second, float(np.corrcoef(residual_2X)[0, 1].clip(-0.95, 0.95)) if many else 0.0)


def fate_of(saturation: Time, generalisation: Time, delay: float) -> Fate:
    """What became of a run, by its answers; by what it answers, its verdict says."""
    if generalisation.by is None:
        return "not learned" if saturation.by is None else "remembers"
    late = saturation.by is not None and generalisation.by > delay * saturation.by
    return "composes after a delay" if late else "composes at once"
