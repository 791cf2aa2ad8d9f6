"""Every field of a study as a command-line option.

The options are a tree of plain dataclasses made from the study itself: its values are the defaults, the
attribute docstrings of the specs are the help. Types alone are checked while parsing; the values are then
validated by the specs, so that a bad one is the same sentence whether from a file or from the command line.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from grokscope.errors import InputError
from grokscope.runs.spec import StudySpec
from grokscope.spec import Spec
from grokscope.world.source import pinned

CHOSEN_BY_FILE = ("family", "sweep")
"""Study fields that are no options: the family decides which file tree is read in the first place, a sweep
varies what options set."""
FILE_ONLY = ("variants", "facts_sha256")
"""Fields of a section that only a file can give: trees laid over others, and what pins another file."""


def option_fields(study: StudySpec) -> list[tuple[str, Any, Any]]:
    """Dataclass fields (name, annotation, field) for every option of a study."""
    absent = ("transfer",) if study.transfer is None else ()
    return [field for field in _fields(study) if field[0] not in (*CHOSEN_BY_FILE, *absent)]


def apply(study: StudySpec, values: Any) -> StudySpec:
    """The study with the parsed option values laid on it.

    Args:
        study: the study whose values were the defaults.
        values: an instance of a dataclass with the fields of `option_fields(study)`.

    Raises:
        InputError: a value that the spec refuses.
    """
    named = {item.name: item for item in study.regimes if not isinstance(item, str)}
    tree = study.tree() | {name: _plain(getattr(values, name)) for name, _, _ in option_fields(study)}
    tree["regimes"] = [named[name].tree() if name in named else name for name in values.regimes]
    for name in ("regimes", "seeds"):
        if not tree[name]:
            raise InputError(f"{name} = (): name at least one {name.removesuffix('s')}.")
    tree["steps_for"] = _steps_for(study, values)
    tree["training"]["until"] = dict(values.training.until)
    if study.transfer is not None:
        tree["transfer"]["variants"] = study.transfer.variants
    if study.transfer is not None and values.transfer.bases == study.transfer.bases:
        chosen = [
            choice.regime is None or choice.regime in values.regimes for choice in study.transfer.choices()
        ]
        tree["transfer"]["bases"] = [
            one for one, kept in zip(study.transfer.bases, chosen, strict=True) if kept
        ]
    if values.world.facts_file is not None:
        tree["world"]["facts_file"] = str(Path(values.world.facts_file).resolve())
    if tree["world"]["facts_file"] == study.world.facts_file:
        tree["world"]["facts_sha256"] = study.world.facts_sha256
    laid_over = StudySpec.parse(tree, "command line")
    return laid_over.with_world(pinned(laid_over.world))


def _steps_for(study: StudySpec, values: Any) -> dict[str, int]:
    """Explicit options as they are; else the file's, for the regimes left, if `steps` is the file's too."""
    chosen = dict(values.steps_for)
    if chosen != study.steps_for:
        return chosen
    if values.training.steps != study.training.steps:
        return {}
    return {name: steps for name, steps in chosen.items() if name in values.regimes}


def _fields(spec: Spec) -> list[tuple[str, Any, Any]]:
    fields: list[tuple[str, Any, Any]] = []
    for name, info in type(spec).model_fields.items():
        if name in FILE_ONLY:
            continue
        value = getattr(spec, name)
        annotation: Any = info.annotation
        if isinstance(value, Spec):
            annotation, value = _options_type(value)
        elif name == "regimes":
            annotation = tuple[str, ...]
            value = tuple(item if isinstance(item, str) else item.name for item in value)
        elif isinstance(value, dict):
            pairs = tuple[tuple[str, float], ...] if name == "until" else tuple[tuple[str, int], ...]
            annotation, value = pairs, tuple(value.items())
        option = Annotated[annotation, tyro.conf.arg(help=info.description or "")]
        fields.append((name, option, dataclasses.field(default_factory=_constant(value))))
    return fields


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _options_type(spec: Spec) -> tuple[type, Any]:
    """A dataclass type with the fields of a spec, and the instance that holds its values."""
    fields = _fields(spec)
    made = dataclasses.make_dataclass(f"{type(spec).__name__}Options", fields, frozen=True)
    made.__doc__ = type(spec).__doc__
    return made, made()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value
