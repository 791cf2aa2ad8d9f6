"""What must stay the same on every machine: names and identities by which finished runs are found again, and
the worlds, corpora and new facts that a spec and a seed stand for.

`python -m tests.goldens.values` prints them; they are kept in values.json.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from grokscope.runs.files import load_study, shipped_studies, study_path
from grokscope.runs.job import TransferRunSpec
from grokscope.seeds import Seeds
from grokscope.spec import read_yaml
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.graph import build_world
from grokscope.world.newfacts import NewFacts, build_new_facts
from grokscope.world.newfacts_spec import NewFactsSpec
from grokscope.world.probes import ProbeSet
from grokscope.world.spec import REGIMES, CorpusSpec, WorldSpec

SMALL = {"entities": 40, "relations": 12, "degree": 10, "ood_fraction": 0.12}
SHOWN = {"phi": 6, "iid_fraction": 0.05, "probe_cap": 100}
CORPORA: dict[str, tuple[dict[str, Any], dict[str, Any], Seeds]] = {
    "small": (SMALL, SHOWN, Seeds()),
    "other seeds": (SMALL, SHOWN, Seeds(world=1, split=2, corpus=3)),
    "other sample": (SMALL, SHOWN, Seeds(corpus=1)),
    "identity": (SMALL, SHOWN | {"identity_relation": True}, Seeds()),
    "partners": (SMALL, SHOWN | {"partners": 3, "phi": 2.5}, Seeds()),
    "pocket": (load_study("pocket").world.tree(), load_study("pocket").corpus.tree(), Seeds()),
}
"""World, corpus and seeds; each in all regimes."""
NEW_FACTS: dict[str, dict[str, Any]] = {
    "paper": {"count": 24, "probes": 40, "retention": {"items": 60}},
    "everything": {"count": 24, "probes": 40, "retention": {"items": "all", "ood": True}, "seed": 1},
    "code": {"count": 24, "probes": 40, "retention": {"kind": "code", "items": 200}},
    "taught": {"count": 24, "probes": 40, "k": 2, "retention": {"items": 60}},
    "one role": {"count": 24, "probes": 40, "k": 4, "roles": "second", "retention": {"items": 0}},
}
"""Specs of new facts, for the natural regime of the first two corpora."""


def identities() -> dict[str, dict[str, str]]:
    """By study and family, the identities of the runs, and of the transfers of the first, were it a base."""
    found: dict[str, dict[str, str]] = {}
    for study in shipped_studies():
        for family in read_yaml(study_path(study)).get("families", [None]):
            spec = load_study(study, family)
            runs = spec.expand()
            every = {name: run.identity for name, run in runs.items()}
            run = next(iter(runs.values()))
            for variant, transfer in spec.transfer.transfers().items() if spec.transfer else ():
                made = TransferRunSpec(
                    base=run, step=run.training.steps, transfer=transfer, moment="end", variant=variant
                )
                every[made.name] = made.identity
            found[f"{study} {family}" if family else study] = every
    return found


def corpora() -> dict[str, dict[str, str]]:
    """By corpus and regime: fingerprints, and what the probes are."""
    return {
        f"{name} {regime}": {"world": corpus.world.fingerprint, **_described(corpus)}
        for name in CORPORA
        for regime in REGIMES
        for corpus in [_corpus(name, regime)]
    }


def new_facts() -> dict[str, dict[str, str]]:
    """By corpus and spec: the same of new facts."""
    return {
        f"{name} {kind}": _described(build_new_facts(corpus, NewFactsSpec.parse(tree), CORPORA[name][2]))
        for name in list(CORPORA)[:2]
        for corpus in [_corpus(name, "natural")]
        for kind, tree in NEW_FACTS.items()
    }


VALUES = {"identities": identities, "corpora": corpora, "new facts": new_facts}


def _corpus(name: str, regime: str) -> Corpus:
    world, corpus, seeds = CORPORA[name]
    made = build_world(WorldSpec.parse(world), seeds)
    return build_corpus(made, CorpusSpec.parse(corpus), REGIMES[regime], seeds)


def _described(data: Corpus | NewFacts) -> dict[str, str]:
    return {"data": data.fingerprint, **{name: _probes(one) for name, one in data.probes.items()}}


def _probes(one: ProbeSet) -> str:
    """How many, the first stable id, and a digest of all that is known of them."""
    known = [one.id_P, one.fact_PK, one.ood_PK, one.injected_PK, one.exposure_PK3, one.guess_P]
    known += [one.control_PL[name] for name in sorted(one.control_PL)]
    return f"{len(one)} from {one.id_P[0]}: {_digest(known)}"


def _digest(arrays: Iterable[Any]) -> str:
    joined = b"".join(np.ascontiguousarray(array, dtype="<i8").tobytes() for array in arrays)
    return hashlib.sha256(joined).hexdigest()[:12]


if __name__ == "__main__":
    print(json.dumps({name: value() for name, value in VALUES.items()}, indent=1))
