"""grokscope: do transformers reason, or remember?

import grokscope
study = grokscope.open("runs/demo")
run = study.runs["natural-s0"]
run.metrics, run.traces, run.model(step=1000)
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grokscope.studies.run import Run, Study

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(directory: str | Path) -> "Run | Study":
    """Open a run or a study directory.

    Raises:
        grokscope.errors.InputError: it is neither, or cannot be read.
    """
    from grokscope.studies.run import open_directory  # imported here: `import grokscope` stays light

    return open_directory(directory)
