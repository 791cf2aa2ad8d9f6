"""Groups of positions that are exchanged together: the columns of a map.

In a causal model a position holds nothing of what comes after it, and the positions alone are the columns.
Where every position reads every other, what is known can be spread over several and kept where no token
stands: in the prefix (registers) and in the slots that the answer is read from. There groups named by role
are columns too.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from grokscope.mechanics.patch.edits import Column
from grokscope.mechanics.read.lens import PREFIX
from grokscope.models.protocol import Reasoner
from grokscope.world.format import Encoded, FormatSpec

SLOTS = "slots"
"""Positions that are given no token: where the answer is read, and padding."""
ALL = "all"


def where_of(maps: xr.Dataset) -> dict[str, Column]:
    """Positions of every column of a map, by name."""
    names, texts = maps["position"].values.tolist(), maps["where"].values.tolist()
    return {
        name: tuple(int(one) for one in text.split(",") if one)
        for name, text in zip(names, texts, strict=True)
    }


def tokens_alone(model: Reasoner, positions: int) -> dict[str, Column]:
    """Every input position alone, by its number."""
    return {str(s): (model.prefix + s,) for s in range(positions)}


def columns_of(model: Reasoner, encoded: Encoded, fmt: FormatSpec) -> dict[str, Column]:
    """Every input position alone; with full attention also every prefix position alone, and groups by role:
    what the first hop is asked with (of more hops what each is but the last, with all before it), the slots,
    the prefix, unions of these, all. From small to large, each group once.
    """
    out = tokens_alone(model, len(encoded.roles))
    if fmt.attention == "causal":
        return out
    out |= {f"{PREFIX}{p}": (p,) for p in range(model.prefix)}
    asked = ["head", *_roles(encoded.roles, "relation")]
    firsts = [
        ("+".join(asked[:end]), _where(model, encoded.roles, asked[:end])) for end in range(2, len(asked))
    ]
    slots = (
        SLOTS,
        tuple(model.prefix + int(s) for s in np.flatnonzero((encoded.tokens_NS == 0).all(axis=0))),
    )
    prefix = (PREFIX, tuple(range(model.prefix)))
    groups = [*firsts, slots, prefix, *(_union(prefix, one) for one in firsts), _union(prefix, slots)]
    groups.append((ALL, tuple(range(model.prefix + len(encoded.roles)))))
    for name, where in sorted(groups, key=lambda one: len(one[1])):
        if len(where) > 1 and where not in out.values():
            out[name] = where
    return out


def _roles(roles: Sequence[str], kind: str) -> list[str]:
    return list(dict.fromkeys(role for role in roles if role.startswith(kind)))


def _where(model: Reasoner, roles: Sequence[str], names: Sequence[str]) -> Column:
    return tuple(model.prefix + s for s, role in enumerate(roles) if role in names)


def _union(one: tuple[str, Column], two: tuple[str, Column]) -> tuple[str, Column]:
    return f"{one[0]}+{two[0]}", tuple(sorted({*one[1], *two[1]}))
