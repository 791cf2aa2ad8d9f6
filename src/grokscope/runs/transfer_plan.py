"""Which transfers a study has to make, and what each needs in its directory before a worker can take it."""

import shutil
from dataclasses import asdict
from pathlib import Path

from grokscope.errors import InputError
from grokscope.files import read_json, safe_name, whole, write_json
from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.runs.bases import standing_of, step_of
from grokscope.runs.directory import DONE, SPEC, check_unlocked, standing
from grokscope.runs.plan import PlannedRun
from grokscope.runs.run import Run
from grokscope.runs.spec import StudySpec
from grokscope.runs.transfer import BASE, BASE_WEIGHTS, FOLDER, RESULT, build, read_transfer_spec
from grokscope.runs.transfer_section import UNTRAINED
from grokscope.runs.transfer_spec import TransferRunSpec
from grokscope.spec import digest
from grokscope.training.checkpoint import weights_path
from grokscope.training.optim import frozen_names
from grokscope.transfer.spec import TransferSpec
from grokscope.world.format import positions
from grokscope.world.graph import build_world


def check_transfers(study: StudySpec) -> None:
    """Build the new facts of the study's first run, so that what is impossible is refused before any work.

    Raises:
        InputError: the world has no room for the new facts, the base not so much old data, or a variant
            cannot be honoured.
    """
    if study.transfer is not None and study.transfer.bases:
        base = next(iter(study.expand().values()))
        every = [
            TransferRunSpec(base=base, step=0, transfer=one) for one in study.transfer.transfers().values()
        ]
        for spec in {digest(spec.transfer.facts.tree()): spec for spec in every}.values():
            build(spec)
        for spec in every:
            frozen_names(spec.training.freeze, _model(spec))


def _model(spec: TransferRunSpec) -> Reasoner:
    """A transfer's model."""
    base = spec.base
    vocab = build_world(base.world, base.seeds).vocabulary.size
    return build_model(spec.model, vocab, positions(base.format), base.format, base.seeds.init)


def plan_transfers(
    study: StudySpec, out: Path, runs: dict[str, Run], look: bool = False
) -> tuple[dict[str, PlannedRun], dict[str, str]]:
    """The transfers of a study by name, and, also by name, why some cannot be made (yet).

    Args:
        study: with its `transfer` section. out: its directory.
        runs: its runs by name, finished or not.
        look: only find them; what stands in their way, and whether they are in use, is not asked.

    Raises:
        InputError: one has more steps than asked for, is in use, or cannot be read.
    """
    planned: dict[str, PlannedRun] = {}
    missing: dict[str, str] = {}
    if study.transfer is None:
        return planned, missing
    for seed in study.seeds:
        for choice in study.transfer.choices():
            # Untrained models of one seed are the same in every regime.
            regime = choice.regime or study.regime_names[0]
            run = runs.get(f"{regime}-s{seed}")
            name = f"{UNTRAINED}-s{seed}" if choice.regime is None else f"{regime}-s{seed}-{choice.moment}"
            if run is None:
                missing[name] = f"run {regime}-s{seed} has not been started."
                continue
            try:
                step = step_of(run, choice.moment)
            except InputError as error:
                missing[name] = str(error)
                continue
            for variant, transfer in study.transfer.transfers().items():
                full = f"{name}-{variant}" if variant else name
                planned[full] = plan_transfer(full, run, step, transfer, out / FOLDER, look)
    return planned, missing


def plan_transfer(
    name: str, run: Run, step: int, transfer: TransferSpec, folder: Path, look: bool = False
) -> PlannedRun:
    """What is to be done about one transfer of a run (look: nothing).

    Raises:
        InputError: it has more steps than asked for, is in use, or cannot be read.
    """
    spec = TransferRunSpec(base=run.spec, step=step, transfer=transfer)
    directory = folder / f"{safe_name(name, 'transfer name')}-{spec.identity}"
    now, wanted = standing(directory), spec.training.steps
    if look:
        return PlannedRun(name, directory, spec, "skip", now.step, None)
    if now.state == "new":
        return PlannedRun(name, directory, spec, "start", 0, None)
    check_unlocked(directory, patience=3.0)
    if read_transfer_spec(directory).identity != spec.identity:
        raise InputError(f"{directory / SPEC} does not belong to its directory; it was changed by hand.")
    if now.step > wanted:
        raise InputError(
            f"transfer.tuning.steps = {wanted}: transfer {directory.name} already has {now.step} steps; "
            f"allowed is at least {now.step}, or another --out for a shorter one."
        )
    if now.state == "interrupted":
        return PlannedRun(name, directory, spec, "resume", now.step, None)
    if now.step < wanted:
        return PlannedRun(name, directory, spec, "extend", now.step, None)
    examined = read_json(directory / DONE, "end mark").get("examine") == transfer.examine.tree()
    whole_result = examined and (directory / RESULT).exists()
    return PlannedRun(name, directory, spec, "skip" if whole_result else "diagnose", now.step, None)


def prepare_transfer(planned: PlannedRun, run: Run, moment: str) -> None:
    """Give a transfer's directory all that a worker needs: the base's weights, what is known of it, and last
    the spec."""
    assert isinstance(planned.spec, TransferRunSpec)
    directory = planned.directory
    if planned.action == "skip":
        return
    if not (directory / BASE_WEIGHTS).exists():
        with whole(directory / BASE_WEIGHTS) as draft:
            shutil.copyfile(weights_path(run.directory, planned.spec.step), draft)
    write_json(directory / BASE, asdict(standing_of(run, moment, planned.spec.step)))
    write_json(directory / SPEC, planned.spec.tree())


def run_and_moment(name: str, study: StudySpec, runs: dict[str, Run]) -> tuple[Run, str]:
    """The base run and the moment that a transfer's name stands for."""
    if study.transfer is not None and study.transfer.variants:
        name = name.rpartition("-")[0]
    if name.startswith(f"{UNTRAINED}-s"):
        return runs[f"{study.regime_names[0]}-{name.removeprefix(f'{UNTRAINED}-')}"], UNTRAINED
    run, _, moment = name.rpartition("-")
    return runs[run], moment
