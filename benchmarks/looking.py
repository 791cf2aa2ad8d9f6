"""Lens and interchange against one query, and one patch, at a time."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.clock import take_time
from benchmarks.machine import ceiling, flops
from benchmarks.shapes import build, built, shape
from grokscope.mechanics.patch.interchange import Setting, draw_donors, interchange, source_of
from grokscope.mechanics.patch.interventions import Intervention, intervene
from grokscope.mechanics.read.lens import lens, targets
from grokscope.mechanics.read.traces import some_probes
from grokscope.models.protocol import Reasoner
from grokscope.world.arrays import IntArray
from grokscope.world.format import encode

ONE_BY_ONE = 8
"""Queries of the loop that is compared with; its time per query does not depend on their number."""
MAPPED = {"pocket": 1_000, "reference": 64}
"""Queries of the map. Looking through what was trained for donors is part of it, whatever their number."""
ARM = "bridge"


def lens_loop(model: Reasoner, tokens_PS: IntArray, target_PC: IntArray) -> list[Any]:
    """The lens as one would write it: query by query, stage by stage, variable by variable."""
    found = []
    with torch.no_grad():
        for tokens_S, target_C in zip(tokens_PS, target_PC, strict=True):
            carry = model.start(torch.from_numpy(tokens_S[None].astype("int64")))
            for stage in range(len(model.stages)):
                carry = model.step(carry, stage) if stage else carry
                logits_SV = model.unembed(model.read(carry, stage))[0]
                logp_SV = F.log_softmax(logits_SV, dim=-1)
                for token in target_C.tolist():
                    rank_S = (logits_SV > logits_SV[:, token : token + 1]).sum(-1)
                    found.append((rank_S, logp_SV[:, token]))
                found.append(logits_SV.argmax(-1))
    return found


def interchange_loop(
    model: Reasoner, tokens_PS: IntArray, source_PS: IntArray, position: int
) -> list[torch.Tensor]:
    """The map as one would write it: a run of the donor per query, and a patched run per query, stage and
    position. Gives the logits (V,) of each.
    """
    answered = []
    with torch.no_grad():
        for tokens_S, source_S in zip(tokens_PS, source_PS, strict=True):
            base_1S, donor_1S = (torch.from_numpy(t[None].astype("int64")) for t in (tokens_S, source_S))
            carry = model.start(donor_1S)
            for stage in range(len(model.stages)):
                carry = model.step(carry, stage) if stage else carry
                for place in range(model.prefix, model.prefix + len(tokens_S)):
                    live_11X = model.live(carry, stage)[:, place : place + 1]
                    patch = Intervention("replace", "state", stage, (place,), live_11X)
                    answered.append(intervene(model, base_1S, [patch])[0, position])
    return answered


def looking(name: str, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Seconds per query of both instruments, and of the loops, in both dtypes."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [row for dtype in ("bfloat16", "float32") for row in _rows(name, threads, dtype, quick)]
    finally:
        torch.set_num_threads(before)


def _rows(name: str, threads: int, dtype: str, quick: bool) -> list[dict[str, Any]]:
    spec = shape(name, quick)
    model, corpus = build(spec, dtype), built(spec).corpus
    vocabulary, probe_set = corpus.world.vocabulary, corpus.probes["train_inferred"]
    encoded = encode(probe_set.queries, vocabulary, spec.format)
    few, some = some_probes(probe_set, encoded, 16 if quick else MAPPED[name])
    setting = Setting(corpus.world, corpus.composition, spec.format)
    one = slice(0, 1 if quick else ONE_BY_ONE)
    _, target_PC = targets(probe_set, vocabulary)
    source_PS = source_of(setting, draw_donors(model, setting, few, [ARM])[ARM]).tokens_PMS[:, 0]
    cells = len(model.stages) * some.tokens_NS.shape[1]
    fast: dict[str, tuple[Callable[[], object], int]] = {
        "lens": (lambda: lens(model, probe_set, encoded, vocabulary), len(probe_set)),
        "interchange": (lambda: interchange(model, few, setting, [ARM]), len(few)),
    }
    slow: dict[str, Callable[[], object]] = {
        "lens": lambda: lens_loop(model, encoded.tokens_NS[one], target_PC[one]),
        "interchange": lambda: interchange_loop(
            model, some.tokens_NS[one], source_PS[one], some.answer_position
        ),
    }
    peak = ceiling(dtype, quick, "cpu")
    rows = []
    for instrument, (call, queries) in fast.items():
        batched = take_time(call, 1 if quick else 3)
        loop = take_time(slow[instrument], 1 if quick else 3)
        each, loop_each = batched.seconds / queries, loop.seconds / one.stop
        rows.append(
            {
                "instrument": instrument,
                "shape": name,
                "dtype": dtype,
                "threads": threads,
                "queries": queries,
                "cells": cells,
                "seconds": each,
                "cpu": batched.cpu / queries,
                "loop_seconds": loop_each,
                "speedup": loop_each / each,
                "share": flops(call) / batched.seconds / peak,
            }
        )
    return rows
