"""A corpus on disk, in three layouts, and what is said of one.

grokscope   corpus.json + arrays.safetensors: everything, exact, small, fast.
parquet     corpus.json + tables (facts, compositions, one per probe set): the same, for other tools.
reference   the published JSON files (see `reference_read`), for other code bases.

No layout executes anything when read. corpus.json holds the SHA-256 of the other files and a seal of its own.

Shape suffixes: F facts, N trained compositions, P probes, K hops.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from grokscope.errors import InputError
from grokscope.files import read_json, vacant, whole, write_json
from grokscope.seeds import Seeds
from grokscope.spec import digest
from grokscope.world.arrays import IntArray
from grokscope.world.check import check_corpus
from grokscope.world.corpus import Corpus, assemble, reference_corpus
from grokscope.world.graph import make_world
from grokscope.world.reference_read import read_reference
from grokscope.world.reference_write import write_reference
from grokscope.world.spec import CorpusSpec, Regime
from grokscope.world.tables import Arrays, read_arrays, read_tables, write_arrays, write_tables
from grokscope.world.triples import facts_of, read_triples
from grokscope.world.vocabulary import Vocabulary

Layout = Literal["grokscope", "reference", "parquet"]
HEAD = "corpus.json"
FORMAT = "grokscope corpus, version 1"


def write_corpus(corpus: Corpus, directory: Path, layout: Layout = "grokscope") -> None:
    """Write a corpus as a new directory, whole or not at all.

    Raises:
        InputError: `directory` exists and is not an empty directory, or the layout cannot hold the corpus.
    """
    with whole(vacant(directory)) as draft:
        draft.mkdir()
        if layout == "reference":
            write_reference(corpus, draft)
            return
        (write_arrays if layout == "grokscope" else write_tables)(_arrays(corpus), corpus, draft)
        head = _head(corpus, layout)
        head["sha256"] = {file.name: _sha256(file) for file in sorted(draft.iterdir())}
        write_json(draft / HEAD, head | {"seal": digest(head)})


def read_corpus(directory: Path, seeds: Seeds | None = None) -> Corpus:
    """Read a directory in any of the three layouts.

    Args:
        directory: the directory.
        seeds: `seeds.split` draws the control entities of the reference layout, which holds none.

    Raises:
        InputError: there is no data set, or it is damaged.
    """
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}.")
    if not (directory / HEAD).exists():
        return reference_corpus(read_reference(directory), str(directory), seeds)
    head = _read_head(directory / HEAD)
    for name, sha in head["sha256"].items():
        if not (directory / name).is_file() or _sha256(directory / name) != sha:
            raise InputError(
                f"{directory / name} is missing or damaged: its SHA-256 is not the recorded one."
            )
    return _corpus(head, (read_arrays if head["layout"] == "grokscope" else read_tables)(directory))


def inspect(path: Path) -> dict[str, Any]:
    """What a data set holds: `Corpus.summary`. For a table of triples, what a corpus would add is None, and
    `notes` say what of it cannot be in a world as it stands.

    Raises:
        InputError: it cannot be read.
    """
    if path.is_dir() or not (path.exists() or path.suffix):
        return read_corpus(path).summary()
    triples = read_triples(path)
    mark = None  # with several tails there are several worlds to choose from
    if not triples.several_N.any():
        raw = facts_of(triples, "refuse")
        world = make_world(raw.vocabulary, raw.fact_F3, np.zeros(len(raw.fact_F3), dtype=bool))
        mark = world.fingerprint
    nothing = (
        "id_facts",
        "ood_facts",
        "train_atomic",
        "train_compositions",
        "injected_hop1",
        "injected_hop2",
    )
    counts = {
        "entities": len(triples.entities),
        "relations": len(triples.relations),
        "facts": len(triples.triple_N3),
    }
    notes = {"notes": list(triples.notes)} if triples.notes else {}
    return counts | dict.fromkeys(nothing) | {"probes": {}, **notes, "fingerprint": mark}


def _arrays(corpus: Corpus) -> Arrays:
    """Everything that is not derived: facts, split, facts of compositions and probes, control entities."""
    world = corpus.world
    out: Arrays = {
        "fact": world.fact_F3.astype(np.int32),
        "ood": world.ood_F,
        "composition": corpus.composition.fact_NK(world).astype(np.int32),
    }
    if len(world.further_G3):
        out["further"] = world.further_G3.astype(np.int32)
    for name, probe_set in corpus.probes.items():
        out[f"probe.{name}"] = probe_set.fact_PK.astype(np.int32)
        for latent, control_P in probe_set.control_PL.items():
            out[f"control.{name}.{latent}"] = control_P.astype(np.int32)
    return out


def _head(corpus: Corpus, layout: Layout) -> dict[str, Any]:
    """All that is not an array."""
    vocabulary = corpus.world.vocabulary
    return {
        "format": FORMAT,
        "layout": layout,
        "summary": corpus.summary(),
        "world_fingerprint": corpus.world.fingerprint,
        "corpus": corpus.spec.tree(),
        "regime": corpus.regime.tree(),
        "source": None if corpus.world.source is None else Path(corpus.world.source).name,
        "vocabulary": {
            "tokens": list(vocabulary.tokens),
            "entity_ids": vocabulary.entity_ids.tolist(),
            "relation_ids": vocabulary.relation_ids.tolist(),
            "end_id": vocabulary.end_id,
        },
    }


def _read_head(file: Path) -> dict[str, Any]:
    head = read_json(file, "corpus description")
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise InputError(f"{file} does not describe a {FORMAT}.")
    seal = head.pop("seal", None)
    try:
        sealed = digest(head) == seal
    except ValueError:  # NaN, which JSON has no place for
        sealed = False
    if not sealed:
        raise InputError(f"{file} is damaged: it is not what was written.")
    return head


def _corpus(head: dict[str, Any], arrays: Arrays) -> Corpus:
    words = head["vocabulary"]
    vocabulary = Vocabulary(
        tokens=tuple(words["tokens"]),
        entity_ids=np.array(words["entity_ids"], dtype=np.int32),
        relation_ids=np.array(words["relation_ids"], dtype=np.int32),
        end_id=words["end_id"],
    )
    world = make_world(vocabulary, arrays["fact"], arrays["ood"], head["source"], arrays.get("further"))
    facts: dict[str, IntArray] = {}
    control: dict[str, dict[str, IntArray]] = {}
    for key, array in arrays.items():
        kind, _, name = key.partition(".")
        if kind == "probe":
            facts[name] = array
        elif kind == "control":
            control.setdefault(name.split(".")[0], {})[name.split(".")[1]] = array
    spec, regime = CorpusSpec.parse(head["corpus"]), Regime.parse(head["regime"])
    drawn = assemble(world, spec, regime, arrays["composition"], facts, Seeds())
    probes = {
        name: dataclasses.replace(
            probe_set, control_PL={latent: control[name][latent] for latent in probe_set.control_PL}
        )
        for name, probe_set in drawn.probes.items()
    }
    check_corpus(world, spec, regime, drawn.composition, probes)
    return dataclasses.replace(drawn, probes=probes)


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
