"""The commands of SLURM, and what they say when the scheduler is away."""

import re
import subprocess
import time
from collections.abc import Mapping

from grokscope.errors import InputError, shortened

ANSWER_SECONDS = 60.0
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
AWAY = re.compile(
    r"unable to contact|timed out|connection (refused|failure|reset)|transport endpoint|try again|"
    r"controller.*(down|not responding)|temporarily",
    re.IGNORECASE,
)
"""What the commands say where the scheduler does not answer."""


class Away(Exception):
    """The scheduler does not answer."""


def queue_again(environment: Mapping[str, str]) -> None:
    """Let the job of this process wait in the queue again.

    Raises:
        InputError: it is refused.
    """
    # Of an array the number of the job is that of one task too, so a task is named by both.
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    for wait in (1.0, 5.0, 15.0):
        try:
            ask("scontrol", "requeue", f"{array}_{task}")
            return
        except Away:
            time.sleep(wait)


def ask(*command: str, text: str | None = None) -> str:
    """What a command of SLURM answers.

    Raises:
        Away: the scheduler does not.
        InputError: it refuses.
    """
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except FileNotFoundError:  # A container may not have it.
        raise Away(f"there is no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise Away(f"{command[0]} took {ANSWER_SECONDS:.0f} seconds") from None
    if done.returncode == 0:
        return done.stdout
    said = shortened(done.stderr or done.stdout or f"code {done.returncode}", 160)
    if command[0] != "sbatch" or AWAY.search(said):
        raise Away(said)
    raise InputError(f"execution: SLURM refuses the jobs: {said.removeprefix('sbatch: error: ')}")
