"""The verdict as a value, and the sketch of a path, on a model whose mechanism is known."""

import json

import numpy as np
import pytest

from grokscope.errors import InputError
from grokscope.mechanics.judge.causal import combine
from grokscope.mechanics.judge.sketch import sketch_of_query, sketch_of_rows
from grokscope.mechanics.judge.verdict import CausalVerdict, Look, look
from grokscope.mechanics.patch.interchange import Setting
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.spec import CausalSpec
from grokscope.mechanics.zoo import wire
from grokscope.mechanics.zoo.members import PROBES, Wired


def setting_of(wired: Wired) -> Setting:
    return Setting(wired.corpus.world, wired.corpus.composition, wired.format)


@pytest.fixture(scope="module")
def circuit() -> tuple[Wired, Look]:
    wired = wire("circuit", 0)
    return wired, look(wired.model, wired.corpus.probes[PROBES], setting_of(wired), 7, 80)


@pytest.fixture(scope="module")
def memoriser() -> tuple[Wired, Look]:
    wired = wire("memoriser", 0)
    return wired, look(wired.model, wired.corpus.probes[PROBES], setting_of(wired), 7, 80)


def test_a_verdict_survives_json(circuit: tuple[Wired, Look]) -> None:
    """NaN, tuples or a lost field would show here: interchange of too few pairs has no rate."""
    found = circuit[1]
    verdict, reason = combine("generalised without delay", found.examined, found.examined)
    kept = CausalVerdict(verdict, reason, "generalised without delay", 7, (found.found,), CausalSpec())
    text = json.dumps(kept.tree(), allow_nan=False)
    assert CausalVerdict.parse(json.loads(text)) == kept
    assert kept.of(PROBES) == found.found
    assert kept.of(PROBES, 6) is None
    with pytest.raises(InputError, match="verdict"):
        CausalVerdict.parse({"verdict": "circuit"})


def test_the_circuits_path_is_drawn_and_ends_where_it_is_read(circuit: tuple[Wired, Look]) -> None:
    found = circuit[1]
    assert found.found.path is not None
    sketch = sketch_of_rows(found.rows, found.found.path, 2, "circuit")
    column = sketch.roles.index(found.found.path.role)
    rows = np.flatnonzero(sketch.held["bridge"].any(axis=1))
    assert sketch.held["bridge"][:, column].sum() == len(rows) > 0
    assert sketch.stages[rows[-1]] == found.found.path.read
    assert not sketch.held["answer"][: rows[-1] + 1].any()
    assert sketch.routes == ((rows[-1] + 1, column, 2),)
    assert found.found.path.routes[0].rate.value == 1.0
    assert "Read alone along relation1 to relation2" in sketch.note


def test_a_memoriser_gets_no_arrow(memoriser: tuple[Wired, Look]) -> None:
    found = memoriser[1]
    sketch = sketch_of_rows(found.rows, found.found.path, 2, "memoriser")
    assert not sketch.held["bridge"].any()
    assert not sketch.held["answer"].any()
    assert "cannot be told" in sketch.note or "No cell carries" in sketch.note


def test_rows_without_the_lens_are_refused(circuit: tuple[Wired, Look]) -> None:
    rows = [row for row in circuit[1].rows if row["arm"] != "decoded.bridge"]
    with pytest.raises(InputError, match=r"decoded\.bridge"):
        sketch_of_rows(rows, None, 2, "circuit")


def test_one_query_names_its_own_tokens(circuit: tuple[Wired, Look]) -> None:
    wired, _ = circuit
    probes = wired.corpus.probes[PROBES]
    setting = setting_of(wired)
    one, encoded = some_probes(probes, setting.encode(probes.queries), 1)
    sketch = sketch_of_query(wired.model, one, setting, "one")
    names = wired.corpus.world.vocabulary.tokens
    assert sketch.inputs == tuple(names[int(token)] for token in encoded.tokens_NS[0])
    assert sketch.answer == wired.corpus.world.vocabulary.entity(int(one.queries.path_NK[0, 1]))
    decoded = np.array([[cell == sketch.answer for cell in row] for row in sketch.tokens])
    assert (decoded == (sketch.decoded["answer"] == 1)).all()
    with pytest.raises(InputError, match="exactly one"):
        sketch_of_query(wired.model, probes, setting, "all")
