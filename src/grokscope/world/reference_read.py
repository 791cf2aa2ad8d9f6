"""Reading the JSON format that both published codebases share.

`train.json`, `valid.json` and `test.json` are lists of {"input_text": "<e_12><r_3>", "target_text":
"<e_12><r_3><e_90></a>"}; items of `test.json` carry a "type". `vocab.json`: a list of tokens, or token -> id;
`id_facts.json` and `ood_facts.json` are lists of [h, r, t]. All but train and test may be missing.

The ID/OOD split comes from id_facts / ood_facts if there; else from the test items, see `reference_split`.
Of the train_inferred items, those that a regime injected (one OOD hop) are not among the probes: ours are ID.

Shape suffixes: F facts, N trained compositions, P probes, K hops.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from grokscope.errors import InputError, quoted, shortened
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.reference_json import read_list
from grokscope.world.reference_split import Chain, Key, split_of
from grokscope.world.reference_vocabulary import vocabulary_of
from grokscope.world.vocabulary import END, Vocabulary

SET_OF_TYPE = {
    "id_atomic": "id_atomic",
    "ood_atomic": "ood_atomic",
    "train_inferred": "train_inferred",
    "test_inferred_iid": "test_iid",
    "test_inferred_ood": "test_ood",
    "first_hop_ood": "first_hop_ood",
    "second_hop_ood": "second_hop_ood",
}
"""Types of test items, and our names. The last two are ours; other readers can skip them."""

TOKEN = re.compile(r"<[^<>]+>")
Example = tuple[str, ...]
"""Head, one relation per hop, answer."""


class Place(NamedTuple):
    """Where an item stands, for the sentence that may have to say so."""

    file: Path
    number: int

    def __str__(self) -> str:
        return f"{self.file}, item {self.number}"


@dataclass(frozen=True, eq=False)
class ReferenceData:
    """A data set as the files have it; an item that stands twice counts once."""

    vocabulary: Vocabulary
    fact_F3: IntArray
    """(F, 3) int32 (head, relation, tail), sorted."""
    ood_F: BoolArray
    """(F,) which facts are OOD."""
    fact_N2: IntArray
    """(N, 2) int32 facts of the trained compositions, sorted."""
    probes: dict[str, IntArray]
    """(P, K) int32 facts of the test sets, by our names, sorted."""


class Facts:
    """Facts by (head, relation) strings, while reading."""

    def __init__(self) -> None:
        self.tail: dict[Key, str] = {}

    def add(self, example: Example, where: Place) -> None:
        """Add one; a second tail for the same head and relation is an `InputError`."""
        if self.tail.setdefault(example[:2], example[2]) != example[2]:  # type: ignore[arg-type]
            raise InputError(
                f"{where}: {_said(example[:2])} has the tail {_said(example[2:3])}, elsewhere another one."
            )

    def chain(self, example: Example, where: Place) -> Chain:
        """The (head, relation) of every hop, after checking that the example follows from the facts."""
        at, keys = example[0], []
        for relation in example[1:-1]:
            keys.append((at, relation))
            if keys[-1] not in self.tail:
                raise InputError(
                    f"{where}: {_said(example[:-1])} needs the fact {_said((at, relation))}, which is "
                    "not trained."
                )
            at = self.tail[keys[-1]]
        if at != example[-1]:
            raise InputError(
                f"{where}: {_said(example[:-1])} has the answer {_said(example[-1:])}, the facts say "
                f"{_said((at,))}."
            )
        return tuple(keys)


def read_reference(directory: Path) -> ReferenceData:
    """Read a data set.

    Raises:
        InputError: a file is missing or malformed, an example does not follow from the trained facts, the
            split cannot be told or contradicts itself, or something is both trained and tested; the sentence
            names file and item.
    """
    train = _examples(directory / "train.json")
    test = _examples(directory / "test.json", typed=True)
    valid = _examples(directory / "valid.json") if (directory / "valid.json").exists() else []
    facts = Facts()
    for example, _, where in train:
        if len(example) == 3:
            facts.add(example, where)
    if not facts.tail:
        raise InputError(f"{directory / 'train.json'} holds no atomic fact (an input of two tokens).")
    composed = {facts.chain(example, where): where for example, _, where in train if len(example) == 4}
    tested: dict[str, dict[Chain, Place]] = {}
    for example, kind, where in test:
        if len(example) != (3 if kind.endswith("atomic") else 4):
            raise InputError(
                f"{where}: the type {kind!r} does not fit an input of {len(example) - 1} tokens."
            )
        tested.setdefault(kind, {})[facts.chain(example, where)] = where
    for example, _, where in valid:
        facts.chain(example, where)
    listed = {name: _listed(directory / f"{name}_facts.json", facts) for name in ("id", "ood")}
    ood = split_of(facts.tail, composed, tested, listed["id"], listed["ood"])
    _check_sets(composed, tested, ood)
    if "train_inferred" in tested:
        asked = tested["train_inferred"].items()
        tested["train_inferred"] = {keys: where for keys, where in asked if not ood.intersection(keys)}
    return _arrays(vocabulary_of(directory, facts.tail), facts, ood, composed, tested)


def _check_sets(
    composed: dict[Chain, Place],
    tested: dict[str, dict[Chain, Place]],
    ood: set[Key],
) -> None:
    for keys, where in composed.items():
        if keys[0] in ood and keys[1] in ood:
            raise InputError(f"{where}: both hops of the trained composition are OOD facts.")
    patterns = {
        "test_inferred_iid": "II",
        "test_inferred_ood": "OO",
        "first_hop_ood": "OI",
        "second_hop_ood": "IO",
    }
    patterns |= {"id_atomic": "I", "ood_atomic": "O", "train_inferred": "II"}
    for kind, items in tested.items():
        for keys, where in items.items():
            pattern = "".join("O" if key in ood else "I" for key in keys)
            injected = kind == "train_inferred" and pattern in ("OI", "IO")
            if pattern != patterns[kind] and not injected:
                raise InputError(
                    f"{where}: an item of type {kind!r} must be {patterns[kind]}, its hops are {pattern}."
                )
            if len(keys) == 2 and (keys in composed) != (kind == "train_inferred"):
                state = "is" if keys in composed else "is not"
                raise InputError(f"{where}: an item of type {kind!r} {state} in train.json.")


def _arrays(
    vocabulary: Vocabulary,
    facts: Facts,
    ood: set[Key],
    composed: Iterable[Chain],
    tested: dict[str, dict[Chain, Place]],
) -> ReferenceData:
    entity = {vocabulary.entity(number): number for number in range(len(vocabulary.entity_ids))}
    relation = {vocabulary.relation(number): number for number in range(len(vocabulary.relation_ids))}
    key_of = {(entity[head], relation[rel]): (head, rel) for head, rel in facts.tail}
    keys = [key_of[pair] for pair in sorted(key_of)]
    index = {key: number for number, key in enumerate(keys)}

    def rows(chains: Iterable[Chain], hops: int) -> IntArray:
        found = sorted(tuple(index[key] for key in chain) for chain in chains)
        return np.array(found, dtype=np.int32).reshape(-1, hops)

    return ReferenceData(
        vocabulary=vocabulary,
        fact_F3=np.array(
            [(entity[h], relation[r], entity[facts.tail[h, r]]) for h, r in keys], dtype=np.int32
        ),
        ood_F=np.array([key in ood for key in keys], dtype=bool),
        fact_N2=rows(composed, 2),
        probes={
            SET_OF_TYPE[kind]: rows(items, 1 if kind.endswith("atomic") else 2)
            for kind, items in tested.items()
        },
    )


def _examples(path: Path, typed: bool = False) -> list[tuple[Example, str, Place]]:
    """(example, type, where it stands) of every item. One pass: there can be a million."""
    out = []
    for number, item in enumerate(read_list(path)):
        where = Place(path, number)
        question, text = (
            (item.get("input_text"), item.get("target_text")) if isinstance(item, dict) else (0, 0)
        )
        if not isinstance(question, str) or not isinstance(text, str):
            raise InputError(f'{where}: an item must have the texts "input_text" and "target_text".')
        found = TOKEN.findall(text)
        if len(found) not in (4, 5) or "".join(found) != text.strip():
            raise InputError(
                f"{where}: the target {quoted(text)} must be 4 or 5 tokens in angle brackets and no more."
            )
        if found[-1] != END or "".join(found[:-2]) != question.strip():
            raise InputError(
                f"{where}: the target {quoted(text, 36)} must be the input {quoted(question, 36)}, the "
                f"answer and {END}."
            )
        kind = item.get("type") if typed else ""
        if typed and (not isinstance(kind, str) or kind not in SET_OF_TYPE):
            raise InputError(f"{where}: type {quoted(kind)} is not one of {', '.join(SET_OF_TYPE)}.")
        out.append((tuple(found[:-1]), str(kind), where))
    return out


def _listed(path: Path, facts: Facts) -> set[Key] | None:
    """The (head, relation) of a list of [h, r, t]; None: there is no such file."""
    if not path.exists():
        return None
    out = set()
    for number, item in enumerate(read_list(path)):
        where = Place(path, number)
        if not isinstance(item, list) or len(item) != 3 or not all(isinstance(name, str) for name in item):
            raise InputError(f"{where}: {quoted(item)} must be [head, relation, tail].")
        names = tuple(name if name.startswith("<") else f"<{name}>" for name in item)
        out.add(facts.chain(names, where)[0])
    return out


def _said(tokens: Iterable[str]) -> str:
    """Tokens for a sentence, which is no copy of a file."""
    return shortened("".join(tokens), 36)
