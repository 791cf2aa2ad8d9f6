"""One measurement in a process of its own: python -m benchmarks.alone WHAT [options]; prints one JSON line.

A process of its own has its own peak memory, and several can run side by side.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

MEGABYTE = 1e6


def main() -> None:
    """Do one measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("step", "corpus"))
    parser.add_argument("--shape", default="pocket")
    parser.add_argument("--variant", default="compiled")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="of stepping that are timed, at least")
    parser.add_argument("--changes", default="{}", help="JSON laid over the spec")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--give-back", action="store_true", help="freed memory, as the C library does")
    parser.add_argument("--plainly", action="store_true", help="no kernels of our own")
    parser.add_argument("--wait", action="store_true", help="for a line on standard input, when warm")
    options = parser.parse_args()
    print(json.dumps(_corpus(options) if options.what == "corpus" else _step(options)), flush=True)


def alone(arguments: Sequence[str]) -> dict[str, Any]:
    """Run one measurement and read its line.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is on standard error.
    """
    done = subprocess.run(_command(arguments), stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def side_by_side(each: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Run several at once; none begins to time before all are warm."""
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([*_command(one), "--wait"], stdin=pipe, stdout=pipe, text=True) for one in each
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    results = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        said, _ = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
        results.append(dict(json.loads(said.splitlines()[-1])))
    return results


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "benchmarks.alone", *arguments]


def _step(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.shapes import setup, shape
    from benchmarks.steps import as_trained, stepper
    from grokscope.kernels.library import plainly

    with ExitStack() as stack:
        stack.enter_context(as_trained(options.threads, "cpu", options.give_back))
        if options.plainly:
            stack.enter_context(plainly())
        made = setup(shape(options.shape, options.quick, json.loads(options.changes)))
        before = resident()
        began = time.perf_counter()
        step = stepper(made, options.variant)
        step()
        first = time.perf_counter() - began
        whole = peak()
        step()
        forget_peak()
        if options.wait:
            print("warm", flush=True)
            sys.stdin.readline()
        steps, began, cpu = 0, time.perf_counter(), time.process_time()
        while steps < 3 or time.perf_counter() - began < options.seconds:
            step()
            steps += 1
        spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "shape": options.shape,
        "variant": options.variant
        + (", freed memory given back" if options.give_back else "")
        + (", no kernels" if options.plainly else ""),
        "threads": options.threads,
        "first_step_seconds": first,
        "seconds": spent / steps,
        "cpu": cpu / steps,
        "flops": made.flops,
        "before_mb": before / MEGABYTE,
        "peak_mb": max(whole, peak()) / MEGABYTE,
        "steps_peak_mb": peak() / MEGABYTE,
    }


def _corpus(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.shapes import shape
    from grokscope.runs.setup import RunSetup

    torch.set_num_threads(options.threads)
    spec = shape("reference", options.quick, json.loads(options.changes))
    setup = RunSetup(spec)
    before = resident()
    began, cpu = time.perf_counter(), time.process_time()
    corpus = setup.corpus
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "regime": spec.regime.name,
        "facts": len(corpus.world.fact_F3),
        "compositions": len(corpus.composition),
        "seconds": seconds,
        "cpu": cpu,
        "before_mb": before / MEGABYTE,
        "peak_mb": peak() / MEGABYTE,
    }


def resident() -> float:
    """Bytes of this process in memory now."""
    return _status("VmRSS") or peak()


def peak() -> float:
    """Most bytes that this process had in memory since it began, or since `forget_peak`."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Start the peak anew, where the system can (Linux)."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")


def _status(field: str) -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0.0)


if __name__ == "__main__":
    main()
