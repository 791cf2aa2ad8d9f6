"""Specs: frozen, typed configuration values, and the one way they are read from YAML.

Every setting of grokscope is a field of a `Spec`. A field that does not exist, or a value that cannot be
honoured, is an `InputError` that names it; nothing is ever silently ignored.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from grokscope.errors import InputError, quoted, shortened
from grokscope.files import read_text

QUOTE = re.compile(r"(?<!\w)(['\"])((?:(?!\1).){61,})\1(?!\w)", re.DOTALL)
"""What a validator quotes of a file, where it is longer than a sentence repeats."""
LONGEST = 280
"""Characters of a sentence, or nearly."""
LATER = "later"
"""Mark of fields that `later` made."""


def later(default: Any, **limits: Any) -> Any:
    """A field that runs made before it existed do not have: at its default it is not part of an identity."""
    return Field(default, json_schema_extra={LATER: True}, **limits)


class Spec(BaseModel):
    """Base of all configuration values: immutable, no unknown fields, no coercion surprises."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, tree: Any, source: str = "") -> Self:
        """Validate a plain tree.

        Raises:
            InputError: one sentence naming the first offending field, its value and what is allowed.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise InputError(sentence(error, source, tree)) from None

    def tree(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        return self.model_dump(mode="json")

    def essence(self) -> dict[str, Any]:
        """`tree` without the fields made by `later` that have their default: what identities are hashed
        from."""
        tree = self.tree()
        for name, info in type(self).model_fields.items():
            value, marks = getattr(self, name), info.json_schema_extra
            if isinstance(marks, dict) and LATER in marks and value == info.default:
                del tree[name]
            elif isinstance(value, Spec):
                tree[name] = value.essence()
        return tree

    def replace(self, **changes: Any) -> Self:
        """A validated copy with top-level fields changed."""
        return type(self).parse({**self.tree(), **changes})


class Stored:
    """Base of frozen dataclasses that are kept as JSON: results, where a `Spec` is a setting."""

    CALLED: ClassVar[str]
    """What a sentence about a damaged file calls it."""

    def tree(self) -> dict[str, Any]:
        """Plain JSON values; numbers that do not exist are None, never NaN."""
        tree: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return tree

    @classmethod
    def parse(cls, tree: Any, source: str = "") -> Self:
        """The value that `tree`, read from `source`, gave.

        Raises:
            InputError: the tree is none.
        """
        try:
            value: Self = TypeAdapter(cls).validate_python(tree)
        except ValidationError as error:
            raise InputError(sentence(error, source or cls.CALLED, tree)) from None
        return value


def sentence(error: ValidationError, source: str = "", tree: Any = None) -> str:
    """One sentence for a pydantic error: the field, the value, what is allowed."""
    found = error.errors()
    first = found[0]
    field = shortened(".".join(_keys(first["loc"], tree, first["type"] == "missing")))
    where = f"{source}: " if source else ""
    if first["type"] == "extra_forbidden":
        given = f"(value {quoted(first['input'])})"
        return f"{where}unknown field '{field}' {given}; see --help for the fields that exist."
    ways = [
        one["msg"] for one in found if one["loc"][:-1] == first["loc"][:-1] and one["input"] is first["input"]
    ]
    message = "; or ".join(dict.fromkeys(way[:1].lower() + way[1:] for way in ways))
    message = QUOTE.sub(lambda quote: quoted(quote[2]), message.removeprefix("value error, "))
    if first["type"] == "too_short":
        least = first["ctx"]["min_length"]
        message = f"at least {'one item' if least == 1 else f'{least} items'} must stand there"
    silent = first["type"] == "missing" or isinstance(first["input"], dict)
    value = "" if silent else f" = {quoted(first['input'])}"
    what = f"{field}{value}".removeprefix(" = ")
    message = shortened(message, max(80, LONGEST - len(where) - len(what)))
    return f"{where}{what}{': ' if what else ''}{message[:1].lower()}{message[1:]}."


def _keys(loc: tuple[int | str, ...], tree: Any, missing: bool = False) -> list[str]:
    """An error's location without the tags pydantic puts in for the members of a union."""
    if tree is None:
        return [str(part) for part in loc]
    keys = []
    for place, part in enumerate(loc):
        if isinstance(tree, dict) and (part in tree or (missing and place == len(loc) - 1)):
            tree = tree.get(part)
        elif isinstance(tree, list | tuple) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            continue
        keys.append(str(part))
    return keys


def canonical_json(tree: Any) -> str:
    """The same tree always gives the same text: sorted keys, no spaces, no NaN."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(tree: Any) -> str:
    """First 12 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(tree).encode()).hexdigest()[:12]


class _OnceLoader(yaml.SafeLoader):
    """YAML without its silent rule that of two equal keys the last one wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the field '{key.value}' stands there twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _problem(error: yaml.YAMLError) -> str:
    """Where a text stops to be YAML, and why, without repeating it."""
    mark = getattr(error, "problem_mark", None)
    why = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
    return (f"line {mark.line + 1}, " if mark else "") + shortened(why)


def read_yaml(path: Path, what: str = "file") -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        InputError: the file is missing, unreadable, not YAML, or not a mapping.
    """
    text = read_text(path, what)
    try:
        tree = yaml.load(text, _OnceLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {_problem(error)}.") from None
    except (ValueError, TypeError, OverflowError) as error:  # of a date or a number that there is not
        raise InputError(f"{path} is not valid YAML: {shortened(str(error))}.") from None
    except RecursionError:
        raise InputError(f"{path} is not valid YAML: it is nested too deep.") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold a mapping of fields, not {type(tree).__name__}.")
    return tree


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` laid on it; mappings merge, everything else replaces."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if both else value
    return out
