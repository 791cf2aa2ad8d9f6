"""What the lines of `calibrate` say of verdicts and shares.

Every rate has an interval. Members of one world share its facts, its probes and the draws of their mixtures,
so that where members are pooled the worlds are the clusters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from grokscope.statistics.clustered import Rate, clustered_rate
from grokscope.statistics.estimate import Estimate, from_numbers, numbers, text

ALL = "all members"
MIXTURES = "all mixtures"
"""Rows of the summary that pool members: those of mechanism "partial", whose p is a share between 0 and 1."""

INSTRUMENTS = {
    "p": ("share_planted",),
    "share": ("share",),
    "lens, before the last stage": ("lens_before_last",),
    "interchange, bridge": ("iia_bridge", "iia_bridge_unconditioned"),
    "centroid": ("iia_centroid", "iia_centroid_unconditioned"),
    "sufficient": ("sufficient",),
    "necessary": ("necessary",),
    "right query by query": ("share_agrees",),
}
"""Headings of the table of all instruments, and the columns that stand below each."""


def summary(rows: list[Mapping[str, Any]]) -> pl.DataFrame:
    """One line per member, then the mixtures pooled, then all members.

    Columns: `worlds`; `decided`, verdicts that are not undecided, and `right` of them with its interval;
    `told`, worlds with a share; `p`; `error`, the mean of |share - p|, and `bias`, of share - p (a redundant
    member's p is its part of the evidence, and so is what is compared); `covered`, how often the share's
    interval holds p, with its own interval; `width`, its mean width. Null: not defined.
    """
    frame = pl.DataFrame(rows, infer_schema_length=None).fill_nan(None)
    lines = [
        {"member": member, "mechanism": mechanism} | _line(part)
        for (member, mechanism), part in frame.group_by("member", "mechanism", maintain_order=True)
    ]
    mixtures = frame.filter(pl.col("mechanism") == "partial")
    for name, part in ((MIXTURES, mixtures), (ALL, frame)):
        if part["member"].n_unique() > 1:
            line = _line(part)
            if name == ALL:
                line |= dict.fromkeys(name for name in line if name not in VERDICTS)
            lines.append({"member": name, "mechanism": None} | line | {"p": None})
    return pl.DataFrame(lines, infer_schema_length=None)


VERDICTS = ("worlds", "decided", "right", "right_low", "right_high")
"""Columns that say something of members pooled whatever their p is."""


def wrong(rows: list[Mapping[str, Any]]) -> list[str]:
    """A sentence for every verdict that is decided and not right."""
    return [
        f"{row['member']}, world {row['seed']}: {row['verdict']}, is {row['mechanism']}"
        f" (share {text(_told(row, 'share', ''), '.3f', form='{}, {} to {}')})."
        for row in rows
        if row["verdict"] not in ("undecided", row["mechanism"])
    ]


def markdown(frame: pl.DataFrame) -> str:
    """`summary` as a table for a page."""
    head = ["member", "verdict", "worlds", "decided", "of them right", "p"]
    head += ["mean error", "bias", "p in the interval", "its width"]
    lines = [head, ["---"] * len(head)]
    for row in frame.to_dicts():
        name = row["member"] if row["mechanism"] is None else f"`{row['member']}`"
        lines.append(
            [
                name,
                row["mechanism"] or "",
                str(row["worlds"]),
                str(row["decided"]),
                _interval(row, "right"),
                _number(row["p"], ".2f"),
                *(_number(row[key], ".3f") for key in ("error", "bias")),
                _interval(row, "covered"),
                _number(row["width"], ".3f"),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def instruments(rows: list[Mapping[str, Any]]) -> str:
    """Every instrument as a table for a page, over the worlds in which all were used; an unconditioned rate
    stands in brackets."""
    frame = pl.DataFrame(rows, infer_schema_length=None).fill_nan(None)
    worlds = frame.filter(pl.col("lens_anywhere").is_not_null())
    names = [name for pair in INSTRUMENTS.values() for name in pair]
    means = worlds.group_by("member", "mechanism", maintain_order=True).agg(pl.col(names).mean())
    head = ["member", "mechanism", *INSTRUMENTS]
    lines = [head, ["---"] * len(head)]
    for row in means.to_dicts():
        told = [[_number(row[name], ".2f") for name in pair] for pair in INSTRUMENTS.values()]
        cells = [" ".join([first, *(f"({other})" for other in rest)]) for first, *rest in told]
        lines.append([f"`{row['member']}`", row["mechanism"], *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _interval(row: Mapping[str, Any], name: str) -> str:
    return text(_told(row, name, f"{name}_"), ".3f", missing="-")


def _told(row: Mapping[str, Any], name: str, prefix: str) -> Estimate | None:
    return from_numbers(row[name], row[f"{prefix}low"], row[f"{prefix}high"])


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _line(part: pl.DataFrame) -> dict[str, Any]:
    decided = part.filter(pl.col("verdict") != "undecided")
    redundant = pl.col("mechanism") == "redundant"
    estimate = pl.when(redundant).then(pl.col("part")).otherwise(pl.col("share"))
    told = part.with_columns((estimate - pl.col("share_planted")).alias("off")).drop_nulls("off")
    covers = part.drop_nulls("covers")
    right, covered = (_rate(*one) for one in ((decided, "verdict_right"), (covers, "covers")))
    return {
        "worlds": part["seed"].n_unique(),
        "decided": len(decided),
        **numbers(right, "right", "right_"),
        "told": len(told),
        "p": part["share_planted"].mean(),
        "error": told["off"].abs().mean(),
        "bias": told["off"].mean(),
        **numbers(covered, "covered", "covered_"),
        "width": covers["width"].mean(),
    }


def _rate(part: pl.DataFrame, column: str) -> Rate | None:
    """A rate over members and worlds, clustered by world; None without any line."""
    if not len(part):
        return None
    return clustered_rate(part[column].to_numpy() > 0, np.asarray(part["seed"])[:, None])
