"""Writing the JSON format of the published codebases (see `reference_read`).

train.json holds every fact and every trained composition, valid.json the test_iid questions, test.json all
probe sets with their types, vocab.json the tokens without PAD (id = place in the list + 1).

Shape suffixes: N queries.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grokscope.errors import InputError
from grokscope.world.queries import Queries
from grokscope.world.reference_read import SET_OF_TYPE
from grokscope.world.vocabulary import END, PAD, Vocabulary

if TYPE_CHECKING:
    from grokscope.world.corpus import Corpus


def write_reference(corpus: "Corpus", directory: Path) -> None:
    """Write the six files into an existing directory.

    Raises:
        InputError: the corpus trains an identity relation or more hops, or has several tails for a head and a
            relation: the format has no place for them.
    """
    if corpus.spec.identity_relation:
        raise InputError(
            "identity_relation = true: the reference format holds facts and compositions only; write the "
            "corpus as grokscope or parquet."
        )
    if corpus.spec.task != "chain":
        raise InputError(
            f"corpus.task = {corpus.spec.task!r}: the reference format holds chains; write the corpus as "
            "grokscope or parquet."
        )
    if corpus.spec.hops != 2:
        raise InputError(
            f"corpus.hops = {corpus.spec.hops}: the reference format holds two-hop queries; write the corpus "
            "as grokscope or parquet."
        )
    if len(corpus.world.further_G3):
        raise InputError(
            "several_tails = 'all': the reference format has one tail for a head and a relation; write "
            "the corpus as grokscope or parquet."
        )
    world = corpus.world
    vocabulary = world.vocabulary
    train = [*_items(corpus.atomic, vocabulary), *_items(corpus.composition, vocabulary)]
    _write_list(train, directory / "train.json")
    held = corpus.probes.get("test_iid")
    _write_list([] if held is None else list(_items(held.queries, vocabulary)), directory / "valid.json")
    test: list[str] = []
    for kind, name in SET_OF_TYPE.items():
        if name in corpus.probes:
            test += _items(corpus.probes[name].queries, vocabulary, kind)
    _write_list(test, directory / "test.json")
    tokens = vocabulary.tokens[1:] if vocabulary.tokens[0] == PAD else vocabulary.tokens
    _write_list([json.dumps(token) for token in tokens], directory / "vocab.json")
    for name, mask_F in (("id_facts", ~world.ood_F), ("ood_facts", world.ood_F)):
        facts = [
            json.dumps([vocabulary.entity(head), vocabulary.relation(relation), vocabulary.entity(tail)])
            for head, relation, tail in world.fact_F3[mask_F].tolist()
        ]
        _write_list(facts, directory / f"{name}.json")


def _items(queries: Queries, vocabulary: Vocabulary, kind: str = "") -> Iterator[str]:
    """The JSON text of every query; tokens are escaped once, not once per query."""
    token = [json.dumps(text)[1:-1] for text in vocabulary.tokens]
    head_N = vocabulary.entity_ids[queries.head_N]
    answer_N = vocabulary.entity_ids[queries.path_NK[:, -1]]
    relation_NK = vocabulary.relation_ids[queries.relation_NK]
    ending = f'{END}", "type": "{kind}"}}' if kind else f'{END}"}}'
    for *question, answer in np.column_stack([head_N, relation_NK, answer_N]).tolist():
        text = "".join(token[number] for number in question)
        yield f'{{"input_text": "{text}", "target_text": "{text}{token[answer]}{ending}'


def _write_list(items: list[str], file: Path) -> None:
    with file.open("w", encoding="utf-8") as handle:
        handle.write("[\n" + ",\n".join(items) + "\n]\n")
