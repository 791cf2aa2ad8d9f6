"""Rows of a table of triples as people keep them: text with any separator, JSON, Parquet.

What a file is its first bytes tell, and which columns are head, relation and tail their names: those of
`STRONG` and `WEAK`, in any case. A text without such a header has exactly these three columns, in this order,
as FB15k-237 and WN18RR have. Other columns are left alone.
"""

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from grokscope.errors import InputError, quoted, shortened
from grokscope.files import decoding, parquet, parse_json, read_text, reading, text_encoding

if TYPE_CHECKING:
    from _csv import Reader

WHAT = "facts file"
ROLES = ("head", "relation", "tail")
STRONG = (ROLES, ("subject", "predicate", "object"), ("h", "r", "t"), ("s", "p", "o"))
"""Names that stand together: where all three of a row are there, no other column is meant."""
WEAK = {
    "head": "subject subj sub h s source src from start e1 entity1 headentity sourceentity entity node1 lhs",
    "relation": "predicate pred property prop r p rel relationship edge metaedge type label link verb",
    "tail": "object obj o t target tgt dst to end e2 entity2 tailentity targetentity value node2 rhs",
}
"""Other names of each role; any name may end in `id`, `name`, `label` and the like."""
ENDING = re.compile(r"(?<=.)(id|name|label|type|uri|iri)$")
SEPARATORS = ("\t", "|", ";", ",", " ")
"""In the order that settles a tie: names hold blanks and commas more often than tabs."""
JSON = re.compile(r'[\[{]\s*(["\[{]|$)')
"""How a line begins that is JSON, even if it is broken: it must not be taken for text."""
SAMPLE = 2**16
"""Bytes in which the separator is looked for."""
Cells = tuple[str, str, str]


@dataclass(frozen=True)
class Rows:
    """Head, relation and tail of every row, as they stand there."""

    unit: str
    """What a row's number counts: "line", "row" or "item"."""
    header: bool
    """Whether the columns were found by name."""
    ignored: tuple[str, ...]
    """Names of the other columns."""
    numbered: Iterator[tuple[int, Cells]]
    """Number in the file, and the three cells."""


def open_rows(path: Path) -> Rows:
    """The rows of a file, each read when it is asked for.

    Raises:
        InputError: the file cannot be read, is of no such kind, or its columns cannot be told; while rows are
            taken, also where one of them is broken: the sentence names it.
    """
    with reading(path, WHAT), path.open("rb") as handle:
        head = handle.read(SAMPLE)
    if not head:
        raise InputError(f"the {WHAT} at {path} is empty.")
    if head.startswith(b"PAR1"):
        return _parquet(path)
    encoding = text_encoding(head, path, WHAT)
    with decoding(path, WHAT):
        sample = codecs.getincrementaldecoder(encoding)().decode(head)
    lines = list(StringIO(sample, newline=""))
    lines = lines[:-1] if len(head) == SAMPLE and len(lines) > 1 else lines
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith(("{", "[")) and (JSON.match(first) or _value(first) is not None):
        return _json(path, encoding, first)
    return _text(path, encoding, lines)


def columns_of(names: Sequence[str], path: Path) -> tuple[int, int, int] | None:
    """Which columns are head, relation and tail; None: these names are no header.

    Raises:
        InputError: they are one, but a role has no column, or several.
    """
    keys = [re.sub(r"[\W_]", "", name).casefold() for name in names]
    for three in STRONG:
        if all(keys.count(name) == 1 for name in three):
            head, relation, tail = map(keys.index, three)
            return head, relation, tail
    found = [_called(keys, {role, *WEAK[role].split()}) for role in ROLES]
    if sum(map(bool, found)) < 2:
        return None
    for role, columns in zip(ROLES, found, strict=True):
        if len(columns) != 1:
            said = " and ".join(quoted(names[at], 20) for at in columns[:2]) or "nothing"
            raise InputError(
                f"{path}, line 1: the header calls {said} the {role}; name the columns {','.join(ROLES)}."
            )
    (head,), (relation,), (tail,) = found
    return head, relation, tail


def _called(keys: Sequence[str], known: set[str]) -> list[int]:
    """The columns with one of the names; where there is none, with one and an ending."""
    exact = [at for at, key in enumerate(keys) if key in known]
    return exact or [at for at, key in enumerate(keys) if ENDING.sub("", key) in known]


def _others(names: Sequence[str], at: Iterable[int]) -> tuple[str, ...]:
    return tuple(name for number, name in enumerate(names) if number not in set(at))


def _text(path: Path, encoding: str, lines: list[str]) -> Rows:
    """A text; its separator is the one by which most lines of the sample are as wide as the first."""
    widths = {one: [len(row) for row in _sampled(lines, one) if row] for one in SEPARATORS}
    fits = {one: width.count(width[0]) for one, width in widths.items() if width and width[0] >= 3}
    if not fits:
        shown = quoted(next((line.strip() for line in lines if line.strip()), ""))
        raise InputError(
            f"{path}, line 1: {shown} is neither the header nor a fact: head,relation,tail, separated by "
            "comma, tab, semicolon, | or blank."
        )
    separator = max(SEPARATORS, key=lambda one: fits.get(one, 0))
    names = next(row for row in _sampled(lines, separator) if row)
    plain = separator == "\t" and not all(len(name) > 1 and name[0] == name[-1] == '"' for name in names)
    names = names if plain else next(row for row in _sampled(lines, separator, plain) if row)
    at = columns_of(names, path)
    if at is None and len(names) != 3:
        raise InputError(
            f"{path}, line 1: {len(names)} columns, and no header that says which are {', '.join(ROLES)}."
        )
    rows = _text_rows(path, encoding, (separator, plain), len(names), at)
    return Rows("line", at is not None, _others(names, at or range(3)), rows)


def _records(lines: Iterable[str], separator: str, plain: bool, strict: bool = True) -> "Reader":
    """Records of a text; where it is `plain`, quotation marks are characters like any other."""
    if plain:
        return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=separator, strict=strict, skipinitialspace=separator == " ")


def _sampled(lines: list[str], separator: str, plain: bool | None = None) -> Iterator[list[str]]:
    """Records of the sample, as far as it can be read so; between tabs it is plain unless said otherwise."""
    records = _records(lines, separator, separator == "\t" if plain is None else plain, strict=False)
    try:
        yield from (_full(record) for record in islice(records, 1000))
    except csv.Error:
        return


def _full(record: list[str]) -> list[str]:
    """A record without empty cells at its end, and without the full stop that ends a line of N-Triples."""
    while record and record[-1].strip() in ("", "."):
        record.pop()
    return record


def _text_rows(
    path: Path, encoding: str, style: tuple[str, bool], width: int, at: tuple[int, int, int] | None
) -> Iterator[tuple[int, Cells]]:
    head, relation, tail = at or (0, 1, 2)
    skip = at is not None
    with reading(path, WHAT), decoding(path, WHAT), path.open(encoding=encoding, newline="") as handle:
        records = _records(handle, *style)
        try:
            for record in records:
                if len(record) != width:
                    if not _full(record[:]):
                        continue
                    if len(record) < width or _full(record[width:]):
                        raise InputError(
                            f"{path}, line {records.line_num}: {len(record)} columns instead of {width}."
                        )
                if skip:
                    skip = False
                    continue
                yield records.line_num, (record[head], record[relation], record[tail])
        except csv.Error as error:
            raise InputError(
                f"the {WHAT} at {path}, line {records.line_num} is not CSV: {shortened(str(error))}."
            ) from None


def _json(path: Path, encoding: str, first: str) -> Rows:
    """JSON lines, or one JSON list: of objects, whose keys are the header, or of lists of three."""
    start = _value(first)
    whole = start is None or (isinstance(start, list) and any(isinstance(one, list | dict) for one in start))
    unit, values = ("item", _items(path)) if whole else ("line", _json_lines(path, encoding))
    number, record = next(values, (0, []))
    at = None
    if isinstance(record, dict):
        names = list(record)
        at = columns_of(names, path)
        if at is None:
            raise InputError(
                f"{path}, {unit} {number}: the keys {quoted(','.join(names))} must be {', '.join(ROLES)}."
            )
        keys = tuple(names[column] for column in at)
        return Rows(
            unit, True, _others(names, at), _objects(path, unit, chain([(number, record)], values), keys)
        )
    return Rows(unit, False, (), _lists(path, unit, chain([(number, record)] if record else [], values)))


def _value(text: str) -> Any:
    """The value of a JSON text; None: it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    tree = parse_json(read_text(path, WHAT), path, WHAT)
    if not isinstance(tree, list):
        raise InputError(f"the {WHAT} at {path} must hold a JSON list of facts, not one object.")
    yield from enumerate(tree)


def _json_lines(path: Path, encoding: str) -> Iterator[tuple[int, Any]]:
    with reading(path, WHAT), decoding(path, WHAT), path.open(encoding=encoding) as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                value = _value(line)
                if value is None:
                    raise InputError(f"{path}, line {number}: {quoted(line.strip())} is not JSON.")
                yield number, value


def _objects(
    path: Path, unit: str, values: Iterable[tuple[int, Any]], keys: tuple[str, ...]
) -> Iterator[tuple[int, Cells]]:
    for number, record in values:
        lacking = [key for key in keys if not isinstance(record, dict) or key not in record]
        if lacking:
            raise InputError(f"{path}, {unit} {number}: {quoted(record)} lacks {', '.join(lacking)}.")
        yield number, _cells([record[key] for key in keys], f"{path}, {unit} {number}")


def _lists(path: Path, unit: str, values: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Cells]]:
    for number, record in values:
        if not isinstance(record, list) or len(record) != 3:
            raise InputError(f"{path}, {unit} {number}: {quoted(record)} must be {', '.join(ROLES)}.")
        yield number, _cells(record, f"{path}, {unit} {number}")


def _cells(values: Sequence[Any], place: str) -> Cells:
    """Values that must be names: text, or whole numbers."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(f"{place}: {quoted(value)} must be a name, text or a whole number.")
    head, relation, tail = map(str, values)
    return head, relation, tail


def _parquet(path: Path) -> Rows:
    with parquet(path, WHAT) as data:
        names = list(pl.read_parquet_schema(data))
        at = columns_of(names, path)
        if at is None:
            raise InputError(f"{path}: the columns {quoted(','.join(names))} must be {', '.join(ROLES)}.")
        frame = pl.read_parquet(data, columns=[names[column] for column in at])
        frame = frame.select([names[column] for column in at])
    rows = ((n, _cells(cells, f"{path}, row {n}")) for n, cells in enumerate(frame.iter_rows(), 1))
    return Rows("row", True, _others(names, at), rows)
