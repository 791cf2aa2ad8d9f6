"""Checkpoints that another program left in a directory, in order, as a run: traced, diagnosed, reported.

    run = import_course(Path("their/output"), load_study("mine.yaml"), "natural", 0, Path("runs/theirs"))

Their steps are what their names say. What they were trained on and are asked is a study's: its facts, its
regime, its format, as `grokscope world build` wrote them for the other program. The model is theirs. What
nobody recorded (loss, learning rate, clock) is null in the metrics.
"""

import re
from pathlib import Path

import torch

from grokscope.errors import InputError, shortened
from grokscope.files import names_in, vacant, whole, write_json
from grokscope.models.looped import LoopedModel
from grokscope.models.protocol import Reasoner
from grokscope.models.published.importing import NOTHING, import_checkpoint
from grokscope.models.published.options import ShapeOptions
from grokscope.models.tensor_file import copy_into
from grokscope.runs.open import Run
from grokscope.runs.plan import Planned, prepare
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.runs.worker import conclude, note_corpus
from grokscope.training.checkpoint import model_tensors, save_weights, weights_path
from grokscope.training.evaluate import correct
from grokscope.training.manifest import MANIFEST, manifest_here
from grokscope.training.metrics import MetricsFile, write_table
from grokscope.world.format import positions
from grokscope.world.source import pinned

NUMBERED = re.compile(r".*?(\d+)(?:\.(?:safetensors|pt|pth|bin|ckpt))?", re.ASCII)
"""A name that ends in a step, as `step_1000`, `checkpoint-1000/` and `epoch=3-step=1000.ckpt` do."""
MOST_STEPS = 10**12


def checkpoints_in(directory: Path) -> dict[int, Path]:
    """The checkpoints of a directory by step, in order; other names are left alone.

    Raises:
        InputError: it may not be read, or two have the same step.
    """
    found: dict[int, Path] = {}
    for name in names_in(directory, "directory of checkpoints"):
        match = NUMBERED.fullmatch(name)
        if match is None or name.startswith(".") or len(match[1]) > len(str(MOST_STEPS)):
            continue
        step = int(match[1])
        if step in found:
            raise InputError(
                f"{directory} has two checkpoints of step {step}, {shortened(found[step].name, 40)} and "
                f"{shortened(name, 40)}: leave one there."
            )
        found[step] = directory / name
    return dict(sorted(found.items()))


def import_course(
    directory: Path,
    study: StudySpec,
    regime: str,
    seed: int,
    out: Path,
    config: Path | None = None,
    options: ShapeOptions = NOTHING,
) -> Run:
    """Make the checkpoints of a directory a finished run, in a study's directory of its own.

    Args:
        directory: of checkpoints; each is read as `import_checkpoint` reads it.
        study: whose facts they were trained on. regime, seed: of its run that they stand for.
        out: the new study's directory.
        config, options: as for `import_checkpoint`, for all of them.

    Raises:
        InputError: there are no checkpoints, one cannot be read or is of another model than the first, or the
            model does not fit the study's vocabulary and format.
    """
    out, found = vacant(out), checkpoints_in(directory)
    if not directory.is_dir():
        what = "a file, and a course is a directory of checkpoints" if directory.exists() else "not there"
        raise InputError(f"{directory} is {what}.")
    if not found:
        raise InputError(f"{directory} has no checkpoints whose names end in a step, such as step_1000.")
    last = max(found)
    if last < 1:
        raise InputError(f"{directory} has no checkpoint after step 0: there is no course to trace.")
    with whole(out) as draft:
        run: Run | None = None
        for step, path in found.items():
            model = import_checkpoint(path, config, options).model
            if run is None:
                study = _of_model(study.alone(regime, seed), model, last)
                run = _begun(study, draft)
                tracer, metrics = run.setup.tracer(run.directory), MetricsFile(run.directory)
            elif model.spec != run.spec.model:
                raise InputError(f"the checkpoint at {path} is of another model than those before it.")
            model = _fitted(model, run, path)
            save_weights(weights_path(run.directory, step), model_tensors(model))
            tracer.at_checkpoint(step, model)
            right = {
                name: float(correct(model, one).mean())
                for name, one in run.setup.encoded.items()
                if len(one.tokens_NS)
            }
            metrics.append({"step": step, "seconds": None, "loss": None, "lr": None, "accuracy": right})
        assert run is not None
        write_table(run.directory)
        conclude(run)
    return Run.open(out / run.directory.name)


def _of_model(study: StudySpec, model: Reasoner, steps: int) -> StudySpec:
    """The study with their model, as they trained it: so many steps, with float32 states."""
    assert model.spec is not None
    training = {**study.training.tree(), "steps": steps, "dtype": "float32"}
    return study.replace(model=model.spec.tree(), training=training, steps_for={}, transfer=None)


def _begun(study: StudySpec, out: Path) -> Run:
    """The study's run, with all in its directory that training would have begun with."""
    study = study.with_world(pinned(study.world))
    whole_study = Study(out, study)
    (run,) = whole_study.run_jobs
    prepare(whole_study, [Planned(run, "start", 0)])
    note_corpus(run)
    here = manifest_here(torch.get_num_threads(), "eager", torch.device("cpu"), torch.float32)
    write_json(run.directory / MANIFEST, here.tree())
    return run


def _fitted(model: Reasoner, run: Run, path: Path) -> Reasoner:
    """The model with as many positions as the study's queries have: a causal one does without the others.

    Raises:
        InputError: its vocabulary, positions or attention are not the study's.
    """
    fmt, vocab = run.spec.format, run.world.vocabulary.size
    size, tensors = positions(fmt, run.spec.hops), model_tensors(model)
    causal = isinstance(model, LoopedModel)
    if causal != (fmt.attention == "causal"):
        theirs = "causal" if causal else "full"
        raise InputError(f"format.attention = {fmt.attention!r}: the model at {path} has {theirs} attention.")
    if model.vocab != vocab:
        raise InputError(
            f"the model at {path} has {model.vocab:,} token ids, the study's vocabulary {vocab:,}: it was "
            "trained on other facts."
        )
    if model.positions < size or (model.positions > size and not causal):
        raise InputError(
            f"the model at {path} has {model.positions} input positions, the study's queries take {size}."
        )
    if causal:
        tensors["position_embedding"] = tensors["position_embedding"][:size]
    fitted = run.setup.model()
    copy_into(model_tensors(fitted), tensors, path)
    return fitted.eval()
