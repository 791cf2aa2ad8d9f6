"""One transfer in a worker process: fine-tune to the end from wherever it stands, then examine it."""

import os
from pathlib import Path

from grokscope.files import whole, write_json
from grokscope.runs.directory import CORPUS, DONE, locked, standing, write_progress
from grokscope.runs.end_mark import EndMark
from grokscope.runs.run import check_fingerprint
from grokscope.runs.transfer import BASE_WEIGHTS, CELLS, RESULT, Transfer, build, load_model
from grokscope.training.manifest import read_manifest
from grokscope.training.shared import SharedSteps
from grokscope.training.sinks import make_sinks
from grokscope.training.start import with_threads
from grokscope.transfer.outcome import outcome_of
from grokscope.transfer.tune import fine_tune


def do_transfer(
    directory: Path,
    threads: int | None = None,
    patience: float = 10.0,
    shared: SharedSteps | None = None,
) -> None:
    """Do the transfer of a directory.

    Args:
        directory: of the transfer.
        threads: of PyTorch, for a transfer that is new.
        patience: seconds to wait for another process that is just saving and leaving.
        shared: compiled steps of this process; what is computed does not depend on them.

    Raises:
        InputError: the spec cannot be honoured, another process has it, or a file is damaged.
        Diverged: the loss or a weight is not a usable number.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    transfer = Transfer.open(directory)
    spec = transfer.spec
    with locked(directory, patience):

        def doing(what: str, **news: object) -> None:
            write_progress(directory, {"pid": os.getpid(), "doing": what, **news})

        now = standing(directory)
        doing("building", step=now.step)
        new = build(spec)
        if (directory / CORPUS).exists():
            check_fingerprint(directory, new.fingerprint)
        else:
            write_json(directory / CORPUS, new.summary())
        if now.state != "done" or now.step < spec.training.steps:
            base = spec.base
            fine_tune(
                load_model(spec, new, directory / BASE_WEIGHTS),
                new,
                base.format,
                spec.transfer,
                base.training,
                base.seeds,
                directory,
                # All probes: what a query's atoms are is looked up among them.
                lens=base.lens.replace(probes_per_set=None),
                observers=[EndMark(directory)],
                sinks=make_sinks(base.sinks, directory),
                threads=threads,
                report=lambda news: doing("fine-tuning", **news),
                say=lambda sentence: print(sentence, flush=True),
                shared=shared,
            )
        doing("examining", step=spec.training.steps)
        # With the transfer's own threads, as for verdicts: `studies.causal.keep_verdict` says why.
        with with_threads(read_manifest(directory).threads):
            outcome = outcome_of(
                transfer.base,
                new,
                spec.base.format,
                spec.transfer.examine,
                transfer.traces,
                transfer.model,
                transfer.steps,
            )
        with whole(directory / CELLS) as draft:
            outcome.cells.write_csv(draft)
        write_json(directory / RESULT, outcome.result.tree())
        end = {
            "step": spec.training.steps,
            "examine": spec.transfer.examine.tree(),
            "fingerprint": new.fingerprint,
        }
        write_json(directory / DONE, end)
