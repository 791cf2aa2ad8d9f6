"""The notebooks run from top to bottom, hold no output, and open from their badge."""

import json
import re
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_from_top_to_bottom(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = json.loads(path.read_text())
    assert (tree["nbformat"], tree["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in tree["cells"]}) == len(tree["cells"])
    code = [cell for cell in tree["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    text = "".join("".join(cell["source"]) for cell in tree["cells"] if cell["cell_type"] == "markdown")
    assert f"/blob/main/notebooks/{path.name})" in text
    for link in re.findall(r"\]\((?!http)([^)#]*)", text):
        assert (path.parent / link).exists(), link
    assert f"(notebooks/{path.name})" in (HOME / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": path.stem}
    for cell in code:
        # Nothing has to be learned here.
        short = re.sub(r'"steps": \d+', '"steps": 40', "".join(cell["source"]))
        exec(compile(short, f"{path.name}, {cell['id']}", "exec"), names)
