"""Every layout on disk gives back what was written, and damage is one sentence."""

import json
from pathlib import Path

import pytest

from grokscope.errors import InputError
from grokscope.seeds import Seeds
from grokscope.world import (
    REGIMES,
    CorpusSpec,
    WorldSpec,
    build_corpus,
    build_world,
    inspect,
    read_corpus,
    storage,
    write_corpus,
)
from grokscope.world.tables import write_arrays, write_tables
from tests.world import brute

SPEC = WorldSpec(entities=40, relations=12, degree=8, ood_fraction=0.1)


@pytest.fixture(scope="module")
def corpus():
    world = build_world(SPEC, Seeds())
    spec = CorpusSpec(phi=4.0, iid_fraction=0.05, probe_cap=60)
    return build_corpus(world, spec, REGIMES["both_hops_half"], Seeds())


@pytest.mark.parametrize("layout", ["grokscope", "parquet", "reference"])
def test_round_trip(corpus, tmp_path, layout):
    write_corpus(corpus, tmp_path / "out", layout)
    read = read_corpus(tmp_path / "out")
    assert read.world.fingerprint == corpus.world.fingerprint
    assert read.world.vocabulary.tokens == corpus.world.vocabulary.tokens
    assert brute.triples(read.composition) == brute.triples(corpus.composition)
    assert list(read.probes) == list(corpus.probes)
    for name, probes in corpus.probes.items():
        assert read.probes[name].frame().equals(probes.frame())
    assert inspect(tmp_path / "out") == corpus.summary()
    if layout != "reference":
        assert (read.spec, read.regime) == (corpus.spec, corpus.regime)


@pytest.mark.parametrize("layout", ["grokscope", "parquet", "reference"])
def test_the_same_corpus_gives_the_same_files(corpus, tmp_path, layout):
    for name in ("one", "two"):
        write_corpus(corpus, tmp_path / name, layout)
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_keys_of_the_summary(corpus):
    summary = json.loads(json.dumps(corpus.summary()))
    assert list(summary) == [
        "entities", "relations", "facts", "id_facts", "ood_facts", "train_atomic", "train_compositions",
        "injected_hop1", "injected_hop2", "probes", "fingerprint",
    ]  # fmt: skip
    assert summary["probes"]["test_iid"] == len(corpus.probes["test_iid"])
    assert summary["train_compositions"] - summary["injected_hop1"] - summary["injected_hop2"] == 4 * 288


def test_a_directory_with_something_in_it_is_left_alone(corpus, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="already holds something"):
        write_corpus(corpus, tmp_path)
    with pytest.raises(InputError, match="already holds something"):
        write_corpus(corpus, tmp_path / "mine.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_the_working_directory_is_not_replaced_and_a_link_is_followed(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the directory you are in"):
        write_corpus(corpus, Path("."))
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far")
    write_corpus(corpus, Path("link"))
    assert (tmp_path / "link").is_symlink()
    assert read_corpus(tmp_path / "far").fingerprint == corpus.fingerprint


def test_a_description_nested_without_end_is_one_sentence(corpus, tmp_path):
    write_corpus(corpus, tmp_path / "out")
    (tmp_path / "out" / "corpus.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"nested too deep[^\n]*$"):
        inspect(tmp_path / "out")


def test_facts_are_inspected_whatever_the_file_is_called(tmp_path):
    (tmp_path / "facts.txt").write_text("head,relation,tail\na,r,b\n")
    assert inspect(tmp_path / "facts.txt")["facts"] == 1


def test_a_write_that_fails_leaves_nothing(corpus, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("grokscope.world.storage._sha256", full)
    with pytest.raises(OSError, match="No space"):
        write_corpus(corpus, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("name", "write_them"), [("arrays.safetensors", write_arrays), ("facts.parquet", write_tables)]
)
def test_a_full_disk_is_called_so(corpus, tmp_path, name, write_them):
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_them(storage._arrays(corpus), corpus, tmp_path)


@pytest.mark.parametrize("layout", ["grokscope", "parquet"])
def test_every_damaged_byte_is_noticed(corpus, tmp_path, layout):
    write_corpus(corpus, tmp_path / "out", layout)
    for file in sorted((tmp_path / "out").iterdir()):
        if file.name == "corpus.json":
            continue
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with pytest.raises(InputError, match=f"{file.name} is missing or damaged"):
            read_corpus(tmp_path / "out")
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    read_corpus(tmp_path / "out")


def leaves(tree, path=()):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    yield path


def test_a_damaged_description_is_one_sentence(corpus, tmp_path):
    write_corpus(corpus, tmp_path / "out")
    head = tmp_path / "out" / "corpus.json"
    text = head.read_text()
    for path in [p for p in leaves(json.loads(text)) if p]:
        for wrong in (None, "x", -1, [], {"a": 1}):
            tree = json.loads(text)
            at = tree
            for key in path[:-1]:
                at = at[key]
            if at[path[-1]] == wrong:
                continue
            at[path[-1]] = wrong
            head.write_text(json.dumps(tree))
            with pytest.raises(InputError, match=r"^[^\n]*corpus\.json[^\n]*$"):
                read_corpus(tmp_path / "out")
    for broken in (
        "",
        "{",
        "[]",
        text.replace('"phi": 4.0', '"phi": NaN'),
        "null",
        '{"format": "grokscope corpus"}',
    ):
        head.write_text(broken)
        with pytest.raises(InputError):
            read_corpus(tmp_path / "out")


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no directory"):
        inspect(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"train\.json"):
        inspect(tmp_path)
    with pytest.raises(InputError, match="no facts file"):
        inspect(tmp_path / "nothing.csv")
