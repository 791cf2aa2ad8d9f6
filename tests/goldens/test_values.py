"""Finished runs are found under the names they were given, and what they were trained on is built again."""

import json
from pathlib import Path

import pytest

from tests.goldens.values import VALUES

KEPT = json.loads((Path(__file__).parent / "values.json").read_text())


@pytest.mark.parametrize("what", VALUES)
def test_values_are_those_that_were_kept(what: str) -> None:
    found = VALUES[what]()
    for name, value in KEPT[what].items():
        assert found[name] == value, name
