"""Parsing by tyro, whose boxes around what is wrong become one sentence each."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from grokscope.errors import InputError, shortened

NO_WRAPPING = "100000"
"""Columns of a terminal in which tyro breaks no line."""
WORDS = {"INT": "a whole number", "FLOAT": "a number", "STR": "a name"}
"""What stands for tyro's names of types."""


def parse(kind: Any, arguments: Sequence[str], prog: str, description: str) -> Any:
    """The value of type `kind` that the arguments spell.

    Raises:
        InputError: they spell none; the sentence names the option, the value and what is allowed.
        SystemExit: help was asked for, and is printed.
    """
    asked = any(one in ("-h", "--help") or one.startswith("--tyro-") for one in arguments)
    said = io.BytesIO()
    try:
        with contextlib.nullcontext() if asked else _caught(said):
            return tyro.cli(kind, prog=prog, description=description, args=arguments)
    except SystemExit:
        box = said.getvalue().decode()
        if found := sentence(box):
            raise InputError(found) from None
        sys.stderr.write(box)
        raise


@contextlib.contextmanager
def _caught(said: io.BytesIO) -> Iterator[None]:
    """What is printed goes to `said`. tyro draws its boxes where the standard output can show them."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = NO_WRAPPING
    console = io.TextIOWrapper(said, "utf-8", write_through=True)
    try:
        with contextlib.redirect_stdout(console), contextlib.redirect_stderr(console):
            yield
    finally:
        console.detach()
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def sentence(box: str) -> str | None:
    """What a box says, or None if it is none that is known."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line[2:-1].rstrip() for line in plain.splitlines() if line.startswith("│")]
    parts: list[list[str]] = [[]]
    for line in lines:
        parts.append([]) if line and not line.strip("─ ") else parts[-1].append(line)
    first, more = parts[0], parts[1] if len(parts) > 2 else []
    if not any(first):
        return None
    if wrong := re.match(r"Error parsing (\S+): (.*)", first[0]):
        option, why = wrong.groups()
        usage = next((line.strip() for line in more if line.strip().startswith(option)), "")
        value = re.search(r"\[(.*)\]|: '(.*)'", why)
        if not usage or value is None:
            return f"{option}: {why.rstrip('.')}."
        given = (value[1] or value[2]).replace("'", "").replace(",", "")
        return f"{option} {given}: allowed is {_words(usage.removeprefix(option).strip())}."
    if wrong := re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)", first[0]):
        given, option, choices = wrong.groups()
        allowed = " or ".join(one.strip("' ") for one in choices.strip(",").split(","))
        return f"{option} {given}: allowed is {allowed}."
    # Deeper lines are the help of what is named above them; behind an empty line tyro explains itself.
    told = first[: first.index("")] if "" in first else first
    said = " ".join(line.strip() for line in told if not line.startswith("     "))
    said = said.removesuffix(" Expected 1 values.").rstrip(".")
    if (extra := re.fullmatch(r"Unrecognized options: (?!-)(.*)", said)) is not None:
        said = f"{shortened(extra[1], 200)}: one argument more than there is a place for"
    near = list(dict.fromkeys(re.findall(r"^ {4}(--[\w.-]+)", "\n".join(more), re.MULTILINE)))
    if near and not said.startswith("Unrecognized or misplaced"):
        said += f"; perhaps you meant {' or '.join(near)}"
    elif more and more[0].startswith("Available"):
        said += "; available" + " ".join(more).removeprefix("Available")
    helps = re.findall(r"grokscope[a-z ]* --help", plain)
    return said[:1].lower() + said[1:] + (f"; see {helps[-1]}." if helps else ".")


def _words(usage: str) -> str:
    """`{None}|INT|{all}` for people; the usage of a list (`[INT [INT ...]]`) says how it is spelled."""
    if usage.startswith("["):
        return usage
    choices = [one for part in usage.split("|") for one in part.strip("{}").split(",")]
    return " or ".join(WORDS.get(one, one) for one in choices)
