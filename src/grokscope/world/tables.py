"""The arrays of a corpus as one safetensors file, or as Parquet tables.

Shape suffixes: N trained compositions, P probes, K hops.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from grokscope.errors import InputError
from grokscope.files import parquet, write_parquet

if TYPE_CHECKING:
    from grokscope.world.corpus import Corpus

Arrays = dict[str, npt.NDArray[Any]]
"""fact, ood, composition, probe.<set>, control.<set>.<latent>: what a corpus is made of again."""

ARRAYS = "arrays.safetensors"
FURTHER = "further_tails.parquet"
FACT = ("head", "relation", "tail")


def write_arrays(arrays: Arrays, corpus: "Corpus", directory: Path) -> None:
    """Write `arrays.safetensors`."""
    packed = save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
    (directory / ARRAYS).write_bytes(packed)


def read_arrays(directory: Path) -> Arrays:
    """Read `arrays.safetensors`.

    Raises:
        InputError: it is not a safetensors file.
    """
    try:
        return dict(load_file(directory / ARRAYS))
    except SafetensorError as error:
        raise InputError(f"{directory / ARRAYS} cannot be read: {error}.") from None


def write_tables(arrays: Arrays, corpus: "Corpus", directory: Path) -> None:
    """Write facts.parquet, compositions.parquet and probes_<set>.parquet, with names beside numbers."""
    world, trained = corpus.world, corpus.composition
    fact_F3, composition_NK = arrays["fact"], arrays["composition"]
    entity = np.array([world.vocabulary.entity(number) for number in range(world.entities)])
    relation = np.array([world.vocabulary.relation(number) for number in range(world.relations)])
    numbers = {name: fact_F3[:, column] for column, name in enumerate(("head", "relation", "tail"))}
    names = {
        "head_name": entity[fact_F3[:, 0]],
        "relation_name": relation[fact_F3[:, 1]],
        "tail_name": entity[fact_F3[:, 2]],
    }
    _write({**numbers, "ood": arrays["ood"], **names}, directory / "facts.parquet")
    if "further" in arrays:
        _write(dict(zip(FACT, arrays["further"].T, strict=True)), directory / FURTHER)
    columns: Arrays = {**trained.columns(), **trained.latents()}
    columns |= {f"fact{k + 1}": composition_NK[:, k] for k in range(trained.hops)}
    columns |= {f"ood{k + 1}": arrays["ood"][composition_NK[:, k]] for k in range(trained.hops)}
    _write(columns, directory / "compositions.parquet")
    for name, probe_set in corpus.probes.items():
        write_parquet(directory / f"probes_{name}.parquet", probe_set.frame())


def read_tables(directory: Path) -> Arrays:
    """Read what `write_tables` wrote.

    Raises:
        InputError: a file is not Parquet, or lacks a column.
    """
    facts = _read(directory / "facts.parquet")
    try:
        arrays: Arrays = {
            "fact": facts.select("head", "relation", "tail").to_numpy().astype(np.int32),
            "ood": facts["ood"].to_numpy(),
            "composition": _facts_of(_read(directory / "compositions.parquet")),
        }
        if (directory / FURTHER).exists():
            arrays["further"] = _read(directory / FURTHER).select(FACT).to_numpy().astype(np.int32)
        for file in sorted(directory.glob("probes_*.parquet")):
            table = _read(file)
            name = file.stem.removeprefix("probes_")
            arrays[f"probe.{name}"] = _facts_of(table)
            for column in table.columns:
                if column.startswith("control_"):
                    arrays[f"control.{name}.{column.removeprefix('control_')}"] = table[column].to_numpy()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"the tables in {directory} cannot be read: {error}.") from None
    return arrays


def _facts_of(table: pl.DataFrame) -> npt.NDArray[np.int32]:
    hops = [name for name in table.columns if name.removeprefix("fact").isdigit()]
    return table.select(hops).to_numpy().astype(np.int32)


def _write(columns: Arrays, file: Path) -> None:
    write_parquet(
        file, pl.DataFrame({name: np.ascontiguousarray(column) for name, column in columns.items()})
    )


def _read(file: Path) -> pl.DataFrame:
    with parquet(file, "table") as data:
        return pl.read_parquet(data)
