"""Timing: candidates take turns, so that a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    seconds: float
    """Median over the rounds, by the wall clock."""
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""
    cpu: float
    """Median of the CPU time of all threads; well below threads x seconds, others used the cores."""
    rounds: int

    def tree(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def take_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, least: float = 0.0, device: str = "cpu"
) -> dict[str, Timing]:
    """Time the candidates in turn, A B A B, after one warm-up call of each.

    Args:
        calls: what is timed, by name.
        rounds: turns per candidate.
        least: seconds that a turn takes at least; short calls are repeated within one.
        device: "cuda" waits for the device at both ends of a turn.
    """
    repeats = {name: _repeats(call, least, device) for name, call in calls.items()}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            one, two = _timed(call, repeats[name], device)
            wall[name].append(one)
            cpu[name].append(two)
    return {name: _summary(wall[name], cpu[name]) for name in calls}


def take_time(call: Callable[[], object], rounds: int, least: float = 0.0, device: str = "cpu") -> Timing:
    """Time one candidate."""
    return take_turns({"": call}, rounds, least, device)[""]


def take_part(
    call: Callable[[], object], rest: Callable[[], object], rounds: int, device: str = "cpu"
) -> Timing:
    """Time `call`, after a warm-up, where each call leaves work behind that `rest` waits for."""
    wall, cpu = [], []
    for turn in range(rounds + 1):
        one, two = _timed(call, 1, device)
        rest()
        if turn:
            wall.append(one)
            cpu.append(two)
    return _summary(wall, cpu)


def _repeats(call: Callable[[], object], least: float, device: str) -> int:
    _timed(call, 1, device)
    seconds, _ = _timed(call, 1, device)
    return max(1, round(least / max(seconds, 1e-7)))


def _timed(call: Callable[[], object], repeats: int, device: str) -> tuple[float, float]:
    _settle(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    _settle(device)
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _summary(wall: list[float], cpu: list[float]) -> Timing:
    quartiles = statistics.quantiles(wall, n=4, method="inclusive") if len(wall) > 1 else [wall[0]] * 3
    return Timing(statistics.median(wall), quartiles[0], quartiles[2], statistics.median(cpu), len(wall))
