"""docs/architecture.md holds the signatures that the code has, and names files and functions that exist."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "grokscope"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_signatures_are_those_of_the_code() -> None:
    printer = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    assert printer["filled"](PAGE) == PAGE, "run: python docs/architecture.py"
    assert PAGE.count("```python") == PAGE.count("<!-- code:")  # none is written by hand


def test_files_and_functions_that_the_prose_names_exist() -> None:
    prose = re.sub(r"```.*?```|<!--.*?-->", "", PAGE, flags=re.DOTALL)
    files = set(re.findall(r"`([\w/]+\.py)`", prose))
    assert len(files) > 20
    assert {one for one in files if not (SOURCE / one).exists() and not (ROOT / one).exists()} == set()
    for names, file in re.findall(r"`([\w.]+)` \(`([\w/]+\.py)`\)", prose):
        assert re.search(rf"\b{names.split('.')[-1]}\b", (SOURCE / file).read_text()), (names, file)
