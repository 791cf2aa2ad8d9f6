"""grokscope: do transformers reason, or remember?

import grokscope
study = grokscope.open("runs/demo")
run = study.runs["natural-s0"]
run.metrics, run.traces, run.verdict, run.model(step=run.steps[-1])
model = grokscope.load("imported")      # what `grokscope import` wrote
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grokscope.models.protocol import Reasoner
    from grokscope.runs.open import Run, Transfer
    from grokscope.runs.study import Study

__version__ = "0.1.0"
__all__ = ["__version__", "load", "open"]


def open(directory: str | Path) -> "Run | Study | Transfer":
    """Open a run's, a study's or a transfer's directory.

    Raises:
        grokscope.errors.InputError: it is none of them, or cannot be read.
    """
    from grokscope.runs.study import open_directory  # imported here: `import grokscope` stays light

    return open_directory(directory)


def load(directory: str | Path, dtype: str = "float32") -> "Reasoner":
    """The model that `grokscope import` wrote into a directory, in eval mode.

    Args:
        directory: it holds model.json and model.safetensors.
        dtype: of the states, "float32" or "bfloat16".

    Raises:
        grokscope.errors.InputError: there is no model, or its files are damaged.
    """
    from grokscope.models.directory import load_model

    return load_model(Path(directory), dtype)
