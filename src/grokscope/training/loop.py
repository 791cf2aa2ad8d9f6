"""The training loop: start or resume, step, and at every checkpoint evaluate, let observers look, and save.

Nothing in a run depends on when it was interrupted: the step number gives the data, the rates and the number
of loops, and all else that changes is in the resume state. At a checkpoint the order is: observers,
accuracies, weights, metrics line, resume state, and only then weights that `keep` no longer covers are
deleted. From the weights on this happens beside the next steps. A process killed anywhere in between resumes
from the state before and does it again.
"""

from collections.abc import Callable

from grokscope.training.member import Member
from grokscope.training.shared import SharedSteps
from grokscope.training.stops import Interrupted, watch_signals
from grokscope.training.trainer import Alone, Outcome, Trainer, TrainingResult, assembled


def train(
    member: Member,
    *,
    threads: int | None = None,
    say: Callable[[str], None] = print,
    shared: SharedSteps | None = None,
) -> TrainingResult:
    """Train a model to its end, from the start or from where its directory stands.

    Args:
        member: the model, what it is trained on, and who looks.
        threads: of PyTorch, for this training only; None: as they are. A resumed run has the threads it
            started with.
        say: gets the plain sentences.
        shared: compiled steps of earlier trainings in this process, to which this one's is added; None: it
            compiles its own.

    Raises:
        InputError: a setting cannot be honoured, the run cannot be resumed as it was, a file is damaged, or
            the disk is full.
        Interrupted: SIGINT or SIGTERM; the state is saved.
        Diverged: the loss or a weight is not a usable number.
    """
    with assembled(lambda lanes: Alone(lanes[0], shared or SharedSteps()), [member], threads, say) as trainer:
        (outcome,) = run(trainer)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run(trainer: Trainer) -> list[Outcome]:
    """Update all runs of a trainer until each has ended.

    Raises:
        Interrupted: SIGINT or SIGTERM; the states of all are saved.
    """
    lanes = trainer.lanes
    with watch_signals() as watch:
        for lane in lanes:
            lane.alone(lane.first_checkpoint)
        while watch.caught is None and any(lane.running for lane in lanes):
            trainer.update()
            for lane in lanes:
                lane.alone(lane.stepped)
        left = [lane for lane in lanes if lane.running]
        for lane in left:
            lane.alone(lane.save)
    if left:
        step, where = left[0].keeper.step, f"at step {left[0].keeper.step} of {left[0].member.spec.steps}"
        what, goes = (
            (where, "it goes") if len(lanes) == 1 else (f"{len(left)} runs, the first {where}", "they go")
        )
        again = f"run the same command again and {goes} on from there"
        raise Interrupted(step, f"{watch.name}: stopped and saved {what}; {again}.")
    return [lane.outcome for lane in lanes if lane.outcome is not None]
