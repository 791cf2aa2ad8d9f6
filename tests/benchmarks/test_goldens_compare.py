"""A difference between two goldens can be read."""

import pytest
from benchmarks.goldens import Goldens, compare


def test_what_differs_is_named_and_shown(tmp_path, capsys):
    places = [tmp_path / "a", tmp_path / "b"]
    for place, line, bits in zip(places, ("two", "zwei"), (b"1", b"2"), strict=True):
        goldens = Goldens(place)
        goldens.keep("same.txt", "one\n")
        goldens.keep("commands/text.txt", f"one\n{line}\n")
        goldens.keep("weights.safetensors", bits)
        if place == places[0]:
            goldens.keep("only.txt", "here\n")
        goldens.write()
    assert compare(places[0], places[0]) == 0
    assert capsys.readouterr().out == "0 of 4 artifacts differ\n"
    assert compare(*places) == 1
    assert capsys.readouterr().out.splitlines() == [
        "commands/text.txt: differs",
        "    -two",
        "    +zwei",
        f"only.txt: not in {places[1]}",
        "weights.safetensors: differs",
        "3 of 4 artifacts differ",
    ]
    with pytest.raises(FileExistsError):
        Goldens(places[0])
