"""The order of the stations: a later one imports earlier ones only."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def test_a_later_station_imports_earlier_ones_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0


@pytest.mark.parametrize("module", ["grokscope", "grokscope.cli"])
def test_importing_the_package_does_not_import_torch(module: str) -> None:
    """`grokscope --help` answers at once only while nothing heavy is imported on the way."""
    code = f"import sys, {module}; print([m for m in ('torch', 'xarray', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
