"""What a training does beside stepping: evaluate, record, save, show, and notice divergence.

Evaluation and observers look at the model while the loop waits; files are written beside it, from a copy.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from grokscope.errors import InputError, quoted
from grokscope.training.checkpoint import (
    Progress,
    forget_weights,
    kept_steps,
    model_tensors,
    save_state,
    save_weights,
    weights_path,
)
from grokscope.training.evaluate import correct
from grokscope.training.member import Member
from grokscope.training.metrics import MetricsFile
from grokscope.training.optim import TrainState
from grokscope.training.progress import Display
from grokscope.training.schedule import checkpoint_steps, ends, rate, scheduled_steps, thin
from grokscope.training.stops import Diverged
from grokscope.training.writer import Snapshot, Writer, not_finite

CHECK_EVERY = 50
"""Steps between two looks at the loss; each waits for the device."""
DIVERGED = 10.0
"""Training counts as diverged when the mean loss between two looks exceeds this multiple of uniform guessing,
or of the first batch's loss if that is larger."""


class Keeper:
    """The records of one training.

    Args:
        member: what is trained; its model holds the EMA weights.
        state: what is saved; the loop changes its tensors in place.
        sums: sums of the loss, (2,) float64: since the last scheduled checkpoint, and since the last look;
            the loop adds to them.
        first_loss: loss of the first batch under the initial weights.

    Attributes:
        step: updates made.
        saved: step of the state on the disk; -1: there is none.
        display: shows the progress; None: nothing is shown.
    """

    def __init__(self, member: Member, state: TrainState, sums: Tensor, first_loss: float) -> None:
        self.member, self.model, self.spec, self.directory = (
            member,
            member.model,
            member.spec,
            member.directory,
        )
        self.state, self.sums = state, sums
        self.probes = {name: probe for name, probe in member.probes.items() if len(probe.tokens_NS)}
        self.metrics = MetricsFile(member.directory)
        self.marks = set(checkpoint_steps(member.spec))
        # The writer must not ask the model, whose weights a step replaces while it runs. Buffers stay.
        self.buffers = {n: t.clone() for n, t in model_tensors(member.model).items() if n not in state.ema}
        self.step, self.saved, self.asked, self.first_loss = 0, -1, -1, first_loss
        self.writer, self.snapshot = Writer(), Snapshot(state, self.sums)
        self.display: Display | None = None
        self.seconds_before, self.step_before, self.began = 0.0, 0, time.monotonic()
        self.shown = -math.inf
        self.last: dict[str, Any] = {"loss": None, "accuracy": {}}
        self.rows: list[dict[str, Any]] = []
        if unknown := [name for name in member.spec.until if name not in self.probes]:
            raise InputError(
                f"training.until = {quoted(unknown[0])}: no such probes are evaluated; allowed are "
                f"{', '.join(self.probes)}."
            )

    def begin(self, progress: Progress | None) -> None:
        """Remove all that was written after the state the training goes on from (None: there is none).

        Raises:
            InputError: the metrics of a kept checkpoint are lost; nothing is removed.
        """
        self.saved = self.asked = -1 if progress is None else progress.step
        before = {step for step in kept_steps(self.directory) if step < self.saved}
        if lost := before - {row["step"] for row in self.metrics.rows()}:
            raise InputError(
                f"{self.metrics.path} is damaged: it has no line for step {min(lost)}, which is kept."
            )
        self.step = self.step_before = max(0, self.saved)
        self.seconds_before = 0.0 if progress is None else progress.seconds
        with self.writing():
            self.metrics.forget_after(self.saved)
            for sink in self.member.sinks:
                sink.forget_after(self.saved)
            for observer in self.member.observers:
                observer.forget_after(self.saved)
        forget_weights(self.directory, [step for step in kept_steps(self.directory) if step > self.saved])
        self.rows = self.metrics.rows()
        self.last = (self.rows or [self.last])[-1]
        self.began = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether it has as many steps as are wanted, or what it was to reach."""
        return self.step >= self.spec.steps or (self.recorded and ends(self.spec, self.rows))

    @property
    def recorded(self) -> bool:
        """Whether the present step has its metrics line."""
        return bool(self.last.get("step") == self.step)

    def first_checkpoint(self) -> None:
        """The checkpoint of the step that the training goes on from, if that is due and was not made."""
        if self.step in self.marks and not self.recorded:
            self.checkpoint()

    def stepped(self) -> None:
        """One update was made: look at the loss, make a checkpoint or save, each when it is due.

        Raises:
            Diverged: the loss or a weight is not a usable number.
            InputError: a file could not be written.
        """
        self.step += 1
        if self.step % CHECK_EVERY == 0:
            self.check()
        if self.step in self.marks:
            self.checkpoint()
        elif self.step % self.spec.resume_every == 0:
            self.save()
        self.show()

    def check(self) -> None:
        """Look at the loss, every `CHECK_EVERY` steps.

        Raises:
            Diverged: it is not finite, or far above where it began.
            InputError: a file could not be written.
        """
        self.writer.check()
        mean = float(self.sums[1]) / CHECK_EVERY
        limit = DIVERGED * max(math.log(self.model.vocab), self.first_loss)
        if not mean <= limit:
            self._diverged(f"the mean loss of {CHECK_EVERY} steps is {mean:.4g}")
        self.sums[1] = 0

    def checkpoint(self) -> None:
        """Let the observers look, evaluate, and save; complete when the resume state is written.

        Raises:
            Diverged: a weight is not finite; nothing is saved.
            InputError: a file cannot be written; the state before is intact.
        """
        self._check_finite()
        self.snapshot.begin()
        read: dict[str, float] = {}
        with self.writing():
            for observer in self.member.observers:
                read |= observer.at_checkpoint(self.step, self.model) or {}
        row = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "loss": self._mean_loss(),
            "lr": rate(self.spec, max(0, self.step - 1)) * self.spec.optimizer.lr,
            "accuracy": {
                name: read[name] if name in read else float(correct(self.model, probe).mean())
                for name, probe in self.probes.items()
            },
        }
        if self.step in scheduled_steps(self.spec, self.step):
            self.sums[0] = 0
        self.last = row
        self.rows.append(row)
        self._hand_over(row)
        self.show(checkpoint=True)

    def save(self) -> None:
        """Save the state a run is resumed from, unless that was asked for already.

        Raises:
            Diverged: a weight was not finite at the save before; nothing of that was saved.
            InputError: a file of the save before could not be written.
        """
        if self.step != self.asked:
            self.writer.wait()  # It still reads the copy before.
            self.snapshot.begin()
            self._hand_over(None)

    def finish(self) -> None:
        """Until everything is on the disk; raises as `save` does."""
        self.writer.wait()

    def _hand_over(self, row: dict[str, Any] | None) -> None:
        self.snapshot.end()
        self.writer.submit(partial(self._write, Progress(self.step, self.seconds), row))
        self.asked = self.step

    def _write(self, progress: Progress, row: dict[str, Any] | None) -> None:
        """In the thread of the writer: all files of a checkpoint, or (without `row`) the resume state
        alone."""
        step = progress.step
        state, sums = self.snapshot.on_host()
        for part in (*state, {"the loss": sums}):
            if part and (name := not_finite(part)):
                raise self._divergence(step, f"{name} is not finite")
        with self.writing(step):
            if row is not None:
                save_weights(weights_path(self.directory, step), {**self.buffers, **state.ema})
                self.metrics.append(row)
                for sink in self.member.sinks:
                    sink.append(row)
            if step != self.saved:
                save_state(self.directory, progress, state, sums)
        self.saved = step
        if row is not None:
            scheduled = scheduled_steps(self.spec, step)
            surplus = set(scheduled) - set(thin(scheduled, self.spec.keep))
            forget_weights(self.directory, surplus.intersection(kept_steps(self.directory)))

    def show(self, checkpoint: bool = False) -> None:
        """Show the progress, unless that was done a moment ago."""
        now = time.monotonic()
        if self.display is None or not (checkpoint or now >= self.shown + self.display.every):
            return
        self.shown = now
        done, spent = self.step - self.step_before, now - self.began
        speed = done / spent if done else None
        news = {
            "step": self.step,
            "steps": self.spec.steps,
            "seconds": self.seconds,
            "rate": speed,
            "eta": (self.spec.steps - self.step) / speed if speed else None,
            "loss": self.last["loss"],
            "accuracy": self.last["accuracy"],
        }
        self.display.show(news, checkpoint)

    @property
    def seconds(self) -> float:
        """Clock time spent on the run so far, over all its processes."""
        return self.seconds_before + time.monotonic() - self.began

    def close(self) -> None:
        """Wait for what is being written, then let go of threads, displays and sinks."""
        self.writer.close()
        self.snapshot.close()
        if self.display is not None:
            self.display.close()
        for sink in self.member.sinks:
            sink.close()

    def _mean_loss(self) -> float:
        """Mean training loss since the last scheduled checkpoint; at step 0 that of the first batch.

        The last step of a run that is continued later is off the schedule: its line starts no new mean.
        """
        if self.step == 0:
            return self.first_loss
        return float(self.sums[0]) / (self.step - scheduled_steps(self.spec, self.step - 1)[-1])

    def _check_finite(self) -> None:
        """Look at the loss, and at the weights that are shown to observers; the writer looks at all. To look
        is to copy them: both read them once.
        """
        if not math.isfinite(float(self.sums.sum())):
            self._diverged("the loss is not finite")
        self.writer.wait()  # It still reads the copy before.
        if name := self.snapshot.copy_average():
            self._diverged(f"{name} is not finite")

    def _diverged(self, what: str) -> None:
        self.writer.wait()
        raise self._divergence(self.step, what)

    def _divergence(self, step: int, what: str) -> Diverged:
        kept = self.saved if self.saved >= 0 else None
        left = (
            "nothing was saved"
            if kept is None
            else f"the state of step {kept} and all checkpoints before are kept"
        )
        return Diverged(
            step,
            kept,
            f"training diverged: at step {step} {what}; {left} in {self.directory}; try a smaller "
            "training.optimizer.lr or a longer training.warmup.",
        )

    @contextmanager
    def writing(self, step: int | None = None) -> Iterator[None]:
        """Turn what the file system says into one sentence; `step` if it is not the present one."""
        try:
            yield
        except OSError as error:
            kept = f"the state of step {self.saved} is intact" if self.saved >= 0 else "nothing was kept"
            step = self.step if step is None else step
            raise InputError(
                f"writing to {self.directory} at step {step} failed: {error.strerror or error}; "
                f"{kept}, so make room and run the same command again."
            ) from error
