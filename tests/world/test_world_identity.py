"""The identity relation: trained, and nothing else changed."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from grokscope.errors import InputError
from grokscope.runs.files import load_study
from grokscope.seeds import Seeds
from grokscope.training.data import training_data
from grokscope.world import REGIMES, Corpus, CorpusSpec, FormatSpec, WorldSpec, build_corpus, build_world
from grokscope.world.identity import IDENTITY, identity_examples, identity_token
from grokscope.world.storage import read_corpus, write_corpus
from grokscope.world.vocabulary import Vocabulary

WORLD = build_world(WorldSpec(entities=30, relations=8, degree=5, ood_fraction=0.3), Seeds())
FORMATS = [
    FormatSpec.parse({"attention": attention, "output": output})
    for attention in ("full", "causal")
    for output in ("sequence", "answer")
]


def corpus(identity: bool) -> Corpus:
    spec = CorpusSpec(phi=1.5, iid_fraction=0.1, probe_cap=40, identity_relation=identity)
    return build_corpus(WORLD, spec, REGIMES["both_hops_full"], Seeds())


def test_layouts_of_an_identity_example() -> None:
    entity, same = int(WORLD.vocabulary.entity_ids[3]), identity_token(WORLD.vocabulary)
    end = WORLD.vocabulary.end_id
    expected = {
        ("full", "sequence"): ([entity, same, 0, 0, 0], [entity, same, entity, end, 0]),
        ("full", "answer"): ([entity, same, 0, 0, 0], [0, 0, entity, 0, 0]),
        ("causal", "answer"): ([entity, same, 0], [0, entity, 0]),
        ("causal", "sequence"): ([entity, same, entity, 0], [0, entity, end, 0]),
    }
    for fmt in FORMATS:
        made = identity_examples(WORLD.vocabulary, fmt)
        assert (made.tokens_NS[3].tolist(), made.labels_NS[3].tolist()) == expected[fmt.attention, fmt.output]
        assert len(made.tokens_NS) == WORLD.entities
        assert made.tokens_NS[:, 0].tolist() == WORLD.vocabulary.entity_ids.tolist()


def test_runs_with_and_without_it_pair() -> None:
    """Same facts, same compositions, same probes with the same ids; only the fingerprint of the corpus, and
    what one epoch shows, differ."""
    off, on = corpus(False), corpus(True)
    assert on.world.fingerprint == off.world.fingerprint
    assert on.fingerprint != off.fingerprint
    assert np.array_equal(on.composition.fact_NK(WORLD), off.composition.fact_NK(WORLD))
    for name, probe_set in off.probes.items():
        assert probe_set.frame().equals(on.probes[name].frame())
    for fmt in FORMATS:
        more = training_data(on, fmt, 3)
        assert len(more) == len(training_data(off, fmt, 3)) + 3 * WORLD.entities
        shown = (more.tokens_NS[:, 1] == identity_token(WORLD.vocabulary)).sum()
        assert int(shown) == 3 * WORLD.entities
    assert on.summary()["train_identity"] == WORLD.entities
    assert "train_identity" not in off.summary()


@pytest.mark.parametrize("layout", ["grokscope", "parquet"])
def test_it_survives_writing(tmp_path: Path, layout: Literal["grokscope", "parquet"]) -> None:
    write_corpus(corpus(True), tmp_path / "c", layout)
    back = read_corpus(tmp_path / "c")
    assert back.spec.identity_relation
    assert back.fingerprint == corpus(True).fingerprint


def test_what_cannot_hold_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="identity_relation"):
        write_corpus(corpus(True), tmp_path / "c", "reference")
    assert not (tmp_path / "c").exists()
    words = tuple("x" if token == IDENTITY else token for token in WORLD.vocabulary.tokens)
    bare = Vocabulary(words, WORLD.vocabulary.entity_ids, WORLD.vocabulary.relation_ids, 1)
    with pytest.raises(InputError, match="no token"):
        identity_token(bare)
    with pytest.raises(ValueError, match="as_in_file"):
        CorpusSpec(as_in_file=True, identity_relation=True)


def test_fields_that_came_later_leave_earlier_runs_what_they_were() -> None:
    """The identities of published runs (docs/data/pocket_events.csv is of these)."""
    study = load_study("pocket")
    runs = study.expand()
    assert runs["natural-s0"].identity == "c286a29e7488"
    assert runs["both_hops_full-s2"].identity == "4b1cffd99e88"
    for change in (
        {"corpus": study.corpus.replace(identity_relation=True).tree()},
        {"training": study.training.replace(freeze=("embedding",)).tree()},
    ):
        other = study.replace(**change).expand()["natural-s0"]
        assert other.identity != "c286a29e7488"
        assert type(other).parse(other.tree()).identity == other.identity
