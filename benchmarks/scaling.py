"""How speed grows with width, batch and threads; peak memory; two runs at once. Each in its own process."""

import json
import os
from typing import Any

from benchmarks.alone import alone, side_by_side
from benchmarks.steps import variants

WIDTHS = {"pocket": (64, 128, 256), "reference": (128, 256)}
BATCHES = {"pocket": (128, 512, 2048), "reference": (128, 512)}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(name: str, quick: bool) -> list[dict[str, Any]]:
    """Peak memory of the process and the time to the first step, per variant; the last one twice, since a
    second process finds what the first compiled, and once more with freed memory given back."""
    named = variants(quick)
    rows = [alone(_arguments(name, quick, variant=variant)) for variant in (*named, named[-1])]
    return [*rows, alone([*_arguments(name, quick, variant=named[-1]), "--give-back"])]


def scaling(name: str, quick: bool) -> list[dict[str, Any]]:
    """The compiled step by width, by batch and by threads, one thing changed at a time."""
    wanted: list[tuple[str, Any, dict[str, Any], int]] = []
    if not quick:
        wanted += [("width", width, {"model": {"width": width}}, 1) for width in WIDTHS[name]]
        wanted += [("batch", batch, {"training": {"batch": batch}}, 1) for batch in BATCHES[name]]
    wanted += [("threads", threads, {}, threads) for threads in ([1] if quick else sorted({1, cores()}))]
    variant = variants(quick)[-1]
    return [
        {
            "by": by,
            "value": value,
            **alone(_arguments(name, quick, variant=variant, threads=threads, changes=changes)),
        }
        for by, value, changes, threads in wanted
    ]


def two_runs(name: str, quick: bool) -> list[dict[str, Any]]:
    """Steps per second in all: one run with every core, against one run of one thread per core."""
    variant = variants(quick)[-1]
    one = side_by_side([_arguments(name, quick, variant=variant, threads=cores())])
    many = side_by_side([_arguments(name, quick, variant=variant)] * cores())
    return [
        {
            "shape": name,
            "runs": len(each),
            "threads": each[0]["threads"],
            "steps_per_second": sum(1 / row["seconds"] for row in each),
        }
        for each in (one, many)
    ]


def corpus(quick: bool) -> list[dict[str, Any]]:
    """Building the paper's corpus."""
    regimes = {
        "natural": {},
        "both_hops_full": {"hop1_ratio": 1.0, "hop1_k": "full", "hop2_ratio": 1.0, "hop2_k": "full"},
    }
    return [
        alone(
            [
                "corpus",
                *(["--quick"] if quick else []),
                "--changes",
                json.dumps({"regime": {"name": name, **changes}}),
            ]
        )
        for name, changes in regimes.items()
    ]


def _arguments(
    name: str, quick: bool, variant: str, threads: int = 1, changes: dict[str, Any] | None = None
) -> list[str]:
    seconds = "0" if quick else "5"
    own = ["step", "--shape", name, "--variant", variant, "--threads", str(threads), "--seconds", seconds]
    return [*own, "--changes", json.dumps(changes or {}), *(["--quick"] if quick else [])]
