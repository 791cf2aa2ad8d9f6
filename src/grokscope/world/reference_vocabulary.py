"""The vocabulary of a reference data set: token ids as the file has them, PAD at 0."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from grokscope.errors import InputError, shortened
from grokscope.world.reference_json import read_tree
from grokscope.world.vocabulary import END, PAD, SPECIALS, Vocabulary, by_length, standard_vocabulary

PAD_NAMES = (PAD, "<PAD>", "<pad>", "[PAD]")


def vocabulary_of(directory: Path, tail_of: Mapping[tuple[str, str], str]) -> Vocabulary:
    """Tokens of `vocab.json`, or of the facts where there is no such file.

    A file without PAD gets one as id 0 and every other id moves up by one (as in the reference's TRM). A
    token that no fact uses counts as entity or relation if it is called <e_..> or <r_..>.

    Args:
        directory: where vocab.json is.
        tail_of: tail by (head, relation), which tells entities from relations.

    Raises:
        InputError: the file is malformed, lacks a token, or a token is both an entity and a relation.
    """
    entities = {head for head, _ in tail_of} | set(tail_of.values())
    relations = {relation for _, relation in tail_of}
    if both := entities & relations | (entities | relations) & set(SPECIALS):
        raise InputError(
            f"the token {shortened(min(both), 60)} has two uses; entities, relations and special tokens "
            "must differ."
        )
    path = directory / "vocab.json"
    if not path.exists():
        return standard_vocabulary(by_length(entities), by_length(relations))
    tokens = _with_pad(_tokens(read_tree(path), path), path)
    if missing := (entities | relations | {END}) - set(tokens):
        raise InputError(f"{path} lacks the token {shortened(min(missing), 60)}.")
    unused = [token for token in tokens if token not in relations]
    extra = [token for token in tokens if token not in entities and token.startswith("<r_")]
    entities |= {token for token in unused if token.startswith("<e_")}
    relations |= {token for token in extra if token not in SPECIALS}
    return Vocabulary(
        tokens=tuple(tokens),
        entity_ids=np.array([i for i, token in enumerate(tokens) if token in entities], dtype=np.int32),
        relation_ids=np.array([i for i, token in enumerate(tokens) if token in relations], dtype=np.int32),
        end_id=tokens.index(END),
    )


def _tokens(tree: Any, path: Path) -> list[str]:
    if isinstance(tree, dict):
        ids = list(tree.values())
        if not all(type(number) is int for number in ids) or sorted(ids) not in (
            list(range(len(ids))),
            list(range(1, len(ids) + 1)),
        ):
            raise InputError(f"{path}: the ids must be whole numbers without gaps or repeats, from 0 or 1.")
        return sorted(tree, key=lambda token: int(tree[token]))
    if not isinstance(tree, list) or not all(isinstance(token, str) for token in tree):
        raise InputError(f"{path} must be a list of tokens, or map tokens to ids.")
    if len(set(tree)) != len(tree):
        raise InputError(f"{path} holds a token twice.")
    return tree


def _with_pad(tokens: list[str], path: Path) -> list[str]:
    pads = [number for number, token in enumerate(tokens) if token in PAD_NAMES]
    if not pads:
        return [PAD, *tokens]
    if pads != [0]:
        raise InputError(
            f"{path}: the padding token must have id 0 and stand once, it has {shortened(str(pads))}."
        )
    return tokens
