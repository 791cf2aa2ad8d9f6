"""Several tests of one question: Holm's correction."""

from collections.abc import Mapping

import numpy as np


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) adjusted p values by name: calling those at most alpha true errs, in any of them, in at
    most alpha of all studies. The k-th smallest of n is multiplied by n - k + 1, and none is below a smaller
    one's.
    """
    names = sorted(p_values, key=lambda name: p_values[name])
    factor = np.arange(len(names), 0, -1)
    adjusted = np.maximum.accumulate(np.array([p_values[name] for name in names]) * factor)
    found = dict(zip(names, np.minimum(adjusted, 1.0).tolist(), strict=True))
    return {name: found[name] for name in p_values}
