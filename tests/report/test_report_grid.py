"""The picture of a path: everything inside the page, arrows only where something is used."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch

from grokscope.mechanics.judge.sketch import Sketch
from grokscope.report import style
from grokscope.report.grid import path_grid

STAGES, ROLES = ("embed", "loop0.layer0", "loop0.layer1", "loop1.layer0"), ("head", "relation1", "relation2")


def sketch(used: bool, single: bool = False) -> Sketch:
    shape = (len(STAGES), len(ROLES))
    held = {name: np.zeros(shape, dtype=bool) for name in ("bridge", "answer")}
    if used:
        held["bridge"][1:3, 1] = True
        held["answer"][3, 2] = True
    shares = {"bridge": 0.6, "answer": 0.3, "input": 0.4}
    decoded = {name: np.full(shape, share) for name, share in shares.items()}
    decoded["input"][:, 2] = np.nan
    tokens = (("e_100", "e_101", "e_102"),) * len(STAGES) if single else ()
    inputs = ("e_1", "r_2", "r_3") if single else ()
    note = "relation1 holds the bridge from loop0.layer0 to loop0.layer1; the second hop has 1 stage left."
    return Sketch("a run, step 16,000, test_ood", "240 queries", STAGES, ROLES, 2, decoded, held, note,
                  inputs, tokens, "e_102" if single else "")  # fmt: skip


@pytest.mark.parametrize("single", [False, True])
def test_nothing_is_clipped(single: bool) -> None:
    with style.styled():
        figure = path_grid([sketch(True, single), sketch(True, single)])
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.02
    assert box.x1 <= width + 0.02
    assert box.y1 <= height + 0.02


def test_arrows_follow_use_alone() -> None:
    """Decoded everywhere, used nowhere: no arrow. Used: one up, one over, one out."""

    def arrows(one: Sketch) -> int:
        return sum(isinstance(patch, FancyArrowPatch) for patch in path_grid([one]).axes[0].patches)

    assert arrows(sketch(False)) == 0
    assert arrows(sketch(True)) == 3


def test_routes_are_the_arrows_where_they_were_asked_for() -> None:
    """A bridge that is read twice is drawn twice; held and not carried on is not drawn as carried on."""
    one = replace(sketch(True), routes=((2, 1, 2), (3, 1, 2)))
    ends = [patch.get_path().vertices for patch in path_grid([one]).axes[0].patches
            if isinstance(patch, FancyArrowPatch)]  # fmt: skip
    assert len(ends) == 3
    slanted = [points for points in ends if abs(points[2, 0] - points[0, 0]) > 0.2]
    assert len(slanted) == 2
