"""A user's own facts, from a CSV file with the header `head,relation,tail`.

Shape suffixes: F facts.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grokscope.errors import InputError
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.vocabulary import Vocabulary, by_length, standard_vocabulary

HEADER = ["head", "relation", "tail"]


@dataclass(frozen=True, eq=False)
class RawFacts:
    """Facts as read from a file, before a world is made of them."""

    vocabulary: Vocabulary
    fact_F3: IntArray
    """int32 (head, relation, tail) numbers, sorted by (head, relation), no (head, relation) twice."""
    ood_F: BoolArray | None
    """The file's own ID/OOD split, if it has one."""


def read_csv(path: Path) -> RawFacts:
    """Read facts; a line repeated exactly counts once, and entities may have any number of facts.

    Names are stripped of surrounding blanks; the tokens are `<e_NAME>` and `<r_NAME>`. Entities and relations
    are numbered in a fixed order (shorter names first), so the order of the lines does not matter.

    Raises:
        InputError: the file is missing or not UTF-8 CSV, the header is another one, a line has not three
            names, a name has '<' or '>', or a (head, relation) has two tails; the sentence names the line.
    """
    tail_of: dict[tuple[str, str], str] = {}
    line_of: dict[tuple[str, str], int] = {}
    for line, row in _rows(path):
        names = [name.strip() for name in row]
        if len(names) != 3 or not all(names):
            raise InputError(f"{path}, line {line}: {row!r} must be three names: head,relation,tail.")
        if any(set(name) & {"<", ">"} for name in names):
            raise InputError(f"{path}, line {line}: names must not hold '<' or '>', got {row!r}.")
        key = (names[0], names[1])
        if tail_of.setdefault(key, names[2]) != names[2]:
            raise InputError(
                f"{path}, line {line}: ({key[0]}, {key[1]}) has the tail {names[2]!r}, but {tail_of[key]!r} "
                f"in line {line_of[key]}; a head and a relation have one tail."
            )
        line_of.setdefault(key, line)
    if not tail_of:
        raise InputError(
            f"{path} holds no facts; under the header head,relation,tail it needs one fact a line."
        )
    entities = by_length({head for head, _ in tail_of} | set(tail_of.values()))
    relations = by_length({relation for _, relation in tail_of})
    entity = {name: number for number, name in enumerate(entities)}
    number_of = {name: number for number, name in enumerate(relations)}
    facts = sorted(
        (entity[head], number_of[relation], entity[tail]) for (head, relation), tail in tail_of.items()
    )
    vocabulary = standard_vocabulary(
        [f"<e_{name}>" for name in entities], [f"<r_{name}>" for name in relations]
    )
    return RawFacts(vocabulary, np.array(facts, dtype=np.int32), None)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and fields of every line below the header that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if header != HEADER:
                raise InputError(
                    f"{path}, line 1: the header must be head,relation,tail, got {','.join(header)!r}."
                )
            return [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise InputError(f"there is no facts file at {path}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"the facts file at {path} is not UTF-8 text: {error}.") from None
    except csv.Error as error:
        raise InputError(f"the facts file at {path}, line {reader.line_num} is not CSV: {error}.") from None
    except OSError as error:
        raise InputError(f"the facts file at {path} cannot be read: {error}.") from None
