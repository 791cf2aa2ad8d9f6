"""Study files: YAML shipped with the package or written by the user, with optional model families."""

from importlib import resources
from pathlib import Path
from typing import Any

from grokscope.errors import InputError, quoted, shortened
from grokscope.runs.spec import StudySpec
from grokscope.spec import merge, read_yaml
from grokscope.world.source import pinned


def shipped_folder() -> Path:
    """The folder of the shipped study files: inside an installed package, at the root of a source tree."""
    packaged = Path(str(resources.files("grokscope.runs"))) / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "studies"


def shipped_studies() -> tuple[str, ...]:
    """Names of the shipped studies."""
    return tuple(sorted(path.stem for path in shipped_folder().glob("*.yaml")))


def study_path(name_or_path: str) -> Path:
    """The file a study name or path means: a shipped name first, then a path.

    Raises:
        InputError: neither a shipped study nor a file.
    """
    if name_or_path in shipped_studies():
        return shipped_folder() / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    if (path / "study.yaml").is_file():
        raise InputError(f"{path} is a study's directory; its file is {path / 'study.yaml'}.")
    looks_like_a_path = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    if looks_like_a_path:
        raise InputError(f"there is no study file {path}.")
    known = ", ".join(shipped_studies()) or "none"
    raise InputError(
        f"there is no study '{name_or_path}'; the shipped ones are {known}, or give a file's path."
    )


def load_study(name_or_path: str, family: str | None = None) -> StudySpec:
    """Read a study.

    A study file holds the fields of a `StudySpec`. It may also hold `families`, a mapping of names to partial
    trees that are laid over the rest; `family` in the file names the one that is taken by default.

    Args:
        name_or_path: a shipped study's name, or the path of a YAML file.
        family: which of the file's families; None: the file's own choice.

    Raises:
        InputError: no such study, no such family, or a field that does not exist or cannot be honoured.
    """
    path = study_path(name_or_path)
    return parse_study(read_yaml(path), path, family)


def parse_study(tree: dict[str, Any], path: Path, family: str | None = None) -> StudySpec:
    """Validate a study tree read from `path`, with one of its families laid over the rest."""
    tree = {"name": path.stem, **tree}
    families = tree.pop("families", {})
    if not isinstance(families, dict) or not all(
        isinstance(name, str) and isinstance(over, dict) for name, over in families.items()
    ):
        raise InputError(f"{path}: families must be a mapping of names to mappings of fields.")
    wanted = family if family is not None else tree.get("family")
    if wanted is not None and not isinstance(wanted, str):
        raise InputError(f"{path}: family = {quoted(wanted)}: must be the name of one of the families.")
    if families:
        if wanted is None and len(families) == 1:
            wanted = next(iter(families))
        if wanted not in families:
            raise InputError(
                f"{path}: family = {quoted(wanted)}: this study has {shortened(', '.join(families))}."
            )
        tree = merge(tree, families[wanted])
    elif family is not None and family != tree.get("family", "default"):
        raise InputError(f"{path}: family = {family!r}: this study has no families.")
    if wanted is not None:
        tree["family"] = wanted
    world = tree.get("world")
    if isinstance(world, dict) and isinstance(world.get("facts_file"), str):
        world["facts_file"] = str((path.parent / world["facts_file"]).resolve())
    study = StudySpec.parse(tree, str(path))
    return study.with_world(pinned(study.world))
