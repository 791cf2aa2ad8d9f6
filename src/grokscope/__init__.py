"""grokscope: do transformers reason, or remember?

import grokscope as gs
run = gs.train(gs.new("runs/notebook", training={"steps": 200}))   # a run, made in this process
study = gs.open("runs/demo")                                       # what `grokscope run demo` made
run = study.runs["natural-s0"]
run.metrics, run.traces, run.verdict, run.model(step=run.steps[-1])
model = gs.load("imported")                                        # what `grokscope import` wrote
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grokscope._version import __version__

if TYPE_CHECKING:  # at run time a name is imported when it is first asked for: `import grokscope` stays light
    from grokscope.errors import InputError
    from grokscope.mechanics.patch.interchange import accuracy, interchange
    from grokscope.mechanics.patch.interventions import Intervention, intervene
    from grokscope.mechanics.read.layout import select
    from grokscope.mechanics.read.lens import lens
    from grokscope.models.protocol import Reasoner
    from grokscope.runs.hub import from_pretrained, push_to_hub
    from grokscope.runs.open import Run, Transfer
    from grokscope.runs.study import Study

__all__ = [
    "InputError", "Intervention", "Run", "Study", "Transfer", "__version__", "accuracy",
    "from_pretrained", "interchange", "intervene", "lens", "load", "new", "open", "push_to_hub", "select",
    "train",
]  # fmt: skip

_HOMES = {
    "errors": ("InputError",),
    "mechanics.patch.interchange": ("accuracy", "interchange"),
    "mechanics.patch.interventions": ("Intervention", "intervene"),
    "mechanics.read.layout": ("select",),
    "mechanics.read.lens": ("lens",),
    "runs.hub": ("from_pretrained", "push_to_hub"),
    "runs.open": ("Run", "Transfer"),
    "runs.study": ("Study",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"grokscope.{module}"), name)
    raise AttributeError(f"module 'grokscope' has no attribute {name!r}")


def new(folder: str | Path, regime: str = "natural", seed: int = 0, **settings: Any) -> "Run":
    """A run of a study's settings, of which nothing has been made yet; `train` makes it.

    Args:
        folder: its directory is in there, named after its settings: others are another run.
        regime: one of the named ones, see `docs/worlds.md`.
        seed: of all its random streams.
        settings: sections of a study (`world`, `corpus`, `format`, `model`, `training`, ...), each a mapping
            of the fields that are not to have their defaults; `grokscope show STUDY` prints them all.

    Raises:
        InputError: a field does not exist or is not a run's, or its value cannot be honoured.
    """
    from grokscope.errors import InputError
    from grokscope.runs.spec import StudySpec
    from grokscope.runs.study import Study
    from grokscope.world.source import pinned

    for name in ("name", "family", "regimes", "seeds", "transfer", "execution", "sweep"):
        if name in settings:
            raise InputError(
                f"{name} = {settings[name]!r}: is of a study; a run has one regime and one seed."
            )
    spec = StudySpec.parse({**settings, "regimes": [regime], "seeds": [seed]})
    (run,) = Study(Path(folder), spec.with_world(pinned(spec.world))).run_jobs
    return run


def train(run: "Run", threads: int | None = None) -> "Run":
    """Train a run to its end in this process, from wherever it stands; the run.

    At every checkpoint it is traced; at the end it is diagnosed and, unless `causal.enabled` is false, judged
    by interventions, as `grokscope run` would do it. What is finished stays as it is.

    Args:
        run: from `new` or `open`.
        threads: of PyTorch, for a run that is new; None: as they are.

    Raises:
        InputError: the settings cannot be honoured, another process has the run, or a file is damaged.
        grokscope.training.stops.Diverged: the loss or a weight is not a usable number.
        grokscope.training.stops.Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    from grokscope.runs.plan import plan, prepare_job
    from grokscope.runs.worker import do_job

    (planned,) = plan([run])
    if planned.action != "skip":
        prepare_job(planned)
        do_job(run, threads)
    return run


def open(directory: str | Path) -> "Run | Study | Transfer":
    """Open a run's, a study's or a transfer's directory.

    Raises:
        InputError: it is none of them, or cannot be read.
    """
    from grokscope.runs.study import open_directory

    return open_directory(directory)


def load(directory: str | Path, dtype: str = "float32") -> "Reasoner":
    """The model that `grokscope import` wrote into a directory, in eval mode.

    Args:
        directory: it holds model.json and model.safetensors.
        dtype: of the states, "float32" or "bfloat16".

    Raises:
        InputError: there is no model, or its files are damaged.
    """
    from grokscope.models.directory import load_model

    return load_model(Path(directory), dtype)
