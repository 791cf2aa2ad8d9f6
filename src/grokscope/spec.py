"""Specs: frozen, typed configuration values, and the one way they are read from YAML.

Every setting of grokscope is a field of a `Spec`. A field that does not exist, or a value that cannot be
honoured, is an `InputError` that names it; nothing is ever silently ignored.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grokscope.errors import InputError

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


def sentence(error: ValidationError, source: str = "", tree: Any = None) -> str:
    """One sentence for a pydantic error: the field, the value, what is allowed."""
    first = error.errors()[0]
    field = ".".join(_keys(first["loc"], tree)) or "the file"
    where = f"{source}: " if source else ""
    if first["type"] == "extra_forbidden":
        given = f"(value {first['input']!r})"
        return f"{where}unknown field '{field}' {given}; see --help for the fields that exist."
    message = first["msg"].removeprefix("Value error, ")
    silent = first["type"] == "missing" or isinstance(first["input"], dict)
    value = "" if silent else f" = {first['input']!r}"
    return f"{where}{field}{value}: {message[:1].lower()}{message[1:]}."


def _keys(loc: tuple[int | str, ...], tree: Any) -> list[str]:
    """An error's location without the tags pydantic puts in for the members of a union."""
    keys = []
    for part in loc:
        if isinstance(tree, dict):
            tagged = part not in tree and part in tree.values()
            if tagged:
                continue
            tree = tree.get(part)
        keys.append(str(part))
    return keys


def canonical_json(tree: Any) -> str:
    """The same tree always gives the same text: sorted keys, no spaces, no NaN."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(tree: Any) -> str:
    """First 12 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(tree).encode()).hexdigest()[:12]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        InputError: the file is missing, unreadable, not YAML, or not a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
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
