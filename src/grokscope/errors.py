"""The one exception a user may see: a sentence, not a traceback; and how it quotes what others wrote."""

from typing import Any


class InputError(ValueError):
    """Bad input. The message names the field, the value and what is allowed; the CLI exits with 2."""


class InUse(InputError):
    """Another process works on the run: it has nothing wrong with it."""


def quoted(value: Any, most: int = 60) -> str:
    """A value as Python writes it, at most `most` characters of it: a sentence is no copy of a file."""
    return shortened(repr(value[: most + 1] if isinstance(value, str) else value), most)


def shortened(text: str, most: int = 80) -> str:
    """At most `most` characters of a text, on one line."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
