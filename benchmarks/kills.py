"""Kill a study with SIGKILL at random moments and compare what it ends with: python -m benchmarks.kills

The study is the shipped demo, shortened, compiled and traced as shipped. One copy runs undisturbed; another
is killed, workers and all, `--times` times and started again each time. Every file that holds no clock time
must have the same bytes, and every metrics line must be the same but for `seconds`.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.runs.test_execution import contents

COMMAND = [sys.executable, "-m", "grokscope", "run", "demo", "--workers", "2"]
SHORTER = [
    "--regimes",
    "natural",
    "both_hops_full",
    "--training.first-checkpoint",
    "100",
    "--causal.no-enabled",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Do it; 0 when nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="kills")
    parser.add_argument("--steps", type=int, default=1500, help="steps of every run")
    parser.add_argument("--longest", type=float, default=30.0, help="most seconds before a kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(argv)
    command = [*COMMAND, *SHORTER, "--training.steps", str(options.steps), "--out"]
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place) / "whole" / "demo", Path(place) / "killed" / "demo"
        subprocess.run([*command, str(whole)], check=True, stdout=subprocess.DEVNULL)
        for number in range(options.times):
            process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL)
            after = moments.uniform(1.0, options.longest)
            time.sleep(after)
            over = process.poll() is not None
            kill_tree(process)
            steps = {path.parent.name: last_step(path) for path in sorted(killed.glob("*/metrics.jsonl"))}
            print(f"kill {number + 1}: after {after:.1f} s{' (it was over)' if over else ''}, at {steps}")
        subprocess.run([*command, str(killed)], check=True, stdout=subprocess.DEVNULL)
        one, other = contents(whole), contents(killed)
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    print(f"{len(one)} files, {len(differ)} differ" + "".join(f"\n  {name}" for name in differ))
    return 1 if differ else 0


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the workers and to the one that started them."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    for pid in [process.pid, *workers]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def last_step(metrics: Path) -> str:
    """Step of the last metrics line, as text."""
    lines = metrics.read_text().splitlines()
    return lines[-1].split(",")[0] if lines else "nothing yet"


if __name__ == "__main__":
    sys.exit(main())
