"""Traces: one immutable zarr shard per checkpoint, and all of them as one lazy dataset.

A shard holds the lens of every probe set at one checkpoint. It appears whole or not at all and holds nothing
but what was measured (no clock, no host, no path), so the same weights give the same bytes. Log-probabilities
are kept as float16 (three digits, and half the size: 20,000 probes x 4 variables x 15 stages x 5 positions
take about 25 MB before compression), ranks as int16 where the vocabulary allows, each variable in one chunk,
so that a rate reads no more than it needs.

Shards from before the lens looked at the prefix hold token positions alone; `position` says so. Where a run
has shards of both kinds, what is opened is what all have.

A trace, opened: `rank`, `logp` (step, probe, variable, stage, position), `argmax` (step, probe, stage,
position) and `exact` (step, probe). All probe sets lie one after the other on `probe`; `layout.select` takes
one out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from grokscope.errors import InputError
from grokscope.files import names_in, remove, whole
from grokscope.mechanics.read.layout import join, layout, some_probes
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.spec import LensSpec
from grokscope.models.protocol import Reasoner
from grokscope.world.format import Encoded
from grokscope.world.probes import ProbeSet
from grokscope.world.vocabulary import Vocabulary

MEASURED = ("rank", "logp", "argmax", "exact")
"""The data variables of a trace; everything else in a shard is a coordinate and the same in all shards of a
run.
"""


SHARD = re.compile(r"step_(\d{8})\.zarr")


class TraceWriter:
    """The observer that reads all probes at every checkpoint and writes one shard, `step_00001000.zarr`.

    Args:
        directory: where the shards go; created when the first one is written.
        probes: probe sets by name.
        encoded: the same sets as tokens.
        vocabulary: of the world.
        spec: how many probes of each set, and how many at a time.
    """

    def __init__(
        self,
        directory: Path,
        probes: Mapping[str, ProbeSet],
        encoded: Mapping[str, Encoded],
        vocabulary: Vocabulary,
        spec: LensSpec = LensSpec(),  # noqa: B008 (frozen)
    ) -> None:
        self.directory, self.vocabulary, self.batch = directory, vocabulary, spec.batch
        self.sets = {
            name: some_probes(probe_set, encoded[name], spec.probes_per_set)
            for name, probe_set in probes.items()
            if len(probe_set)
        }
        self.complete = [name for name, (some, _) in self.sets.items() if len(some) == len(probes[name])]

    def at_checkpoint(self, step: int, model: Reasoner) -> dict[str, float]:
        """Read all probes and write the shard of `step` (an existing one is replaced whole).

        Returns:
            The accuracy of every set that was read as a whole.
        """
        parts = {
            name: lens(model, probe_set, encoded, self.vocabulary, self.batch)
            for name, (probe_set, encoded) in self.sets.items()
        }
        write_shard(self.directory / shard_name(step), join(list(parts.values())))
        return {name: float(parts[name]["exact"].values.mean()) for name in self.complete}

    def forget_after(self, step: int) -> None:
        """Remove the shards of later steps, and drafts that an ended process left behind."""
        for late, path in shards(self.directory).items():
            if late > step:
                remove(path)
        for draft in self.directory.glob(".step_*.part"):
            remove(draft)


def shard_name(step: int) -> str:
    """The directory name of a step's shard."""
    return f"step_{step:08d}.zarr"


def shards(directory: Path) -> dict[int, Path]:
    """The shards of a directory by step, in order."""
    found = [SHARD.fullmatch(name) for name in names_in(directory, "folder of traces")]
    return {int(one[1]): directory / one[0] for one in found if one}


def write_shard(path: Path, dataset: xr.Dataset) -> None:
    """Write one checkpoint's dataset, whole or not at all; the same values give the same bytes."""
    lowest = np.finfo(np.float16).min
    compact = dataset.assign(logp=dataset["logp"].clip(min=lowest).astype(np.float16))
    # Fixed-width text has no zarr v3 specification; variable-length text (object arrays) has one.
    text = {name: array.astype(object) for name, array in compact.coords.items() if array.dtype.kind in "UT"}
    tokens = dataset.sel(position=dataset["position"] >= 0)
    compact = compact.assign_coords(text).assign_attrs(layout=layout(dataset), tokens=layout(tokens))
    encoding = {
        name: {
            "chunks": tuple(1 if dim == "variable" else size for dim, size in compact[name].sizes.items()),
            "compressors": (ZstdCodec(level=3),),
        }
        for name in MEASURED
    }
    # Through memory: zarr's own way to a disk hands every small file to another thread and waits for it.
    kept: dict[str, Any] = {}
    compact.to_zarr(MemoryStore(kept), mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    with whole(path) as draft:
        for name, content in kept.items():
            place = draft / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.to_bytes())


def open_traces(directory: Path) -> xr.Dataset:
    """All shards of a run as one dataset with a leading `step` dimension.

    Nothing measured is read before it is asked for; `trace.sel(step=1000)` reads one shard.

    Raises:
        InputError: there is no shard, one cannot be read, or one was written for other probes or another
        model.
    """
    paths = shards(directory)
    if not paths:
        raise InputError(f"there are no traces in {directory}; a run writes one shard per checkpoint there.")
    groups = [_open(path) for path in paths.values()]
    with _damaged(directory):
        return _joined(directory, paths, groups)


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Say that a trace is damaged, however its library found out: by any error that a foreign file can
    cause."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the trace {path} is damaged ({type(error).__name__} while reading it); remove it, and "
            "grokscope diagnose makes it anew."
        ) from None


def _joined(directory: Path, paths: Mapping[int, Path], groups: Sequence[Any]) -> xr.Dataset:
    layouts = [group.attrs["layout"] for group in groups]
    cut = len(set(layouts)) > 1
    if cut:
        layouts = [group.attrs.get("tokens", group.attrs["layout"]) for group in groups]
    for path, one in zip(paths.values(), layouts, strict=True):
        if one != layouts[0]:
            raise InputError(f"{path.name} in {directory} was written for other probes, stages or positions.")
    fewest = min(range(len(groups)), key=lambda index: groups[index]["argmax"].shape[-1])
    base = xr.open_zarr(list(paths.values())[fewest], chunks=None, consolidated=False)
    coords = {name: (array.dims, _as_text(array.values)) for name, array in base.coords.items()}
    measured = {
        name: (
            ("step", *base[name].dims),
            indexing.LazilyIndexedArray(Stacked([g[name] for g in groups], base[name].shape, directory)),
        )
        for name in MEASURED
    }
    return xr.Dataset(measured, {**coords, "step": np.array(list(paths), dtype=np.int64)})


class Stacked(BackendArray):
    """Zarr arrays as one lazy array with a new first axis. Of a longer last axis the end is shown: the prefix
    comes first."""

    def __init__(self, arrays: Sequence[Any], shape: tuple[int, ...], directory: Path) -> None:
        self.arrays, self.dtype, self.directory = arrays, np.dtype(arrays[0].dtype), directory
        self.shape = (len(arrays), *shape)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read what an xarray indexer asks for."""
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        """One read per shard that `key[0]` names."""
        first, rest = np.arange(len(self.arrays))[key[0]], key[1:]
        if np.ndim(first) == 0:
            return self._of(int(first), rest)
        parts = [self._of(int(index), rest) for index in first]
        return np.stack(parts) if parts else self._of(0, rest)[None][:0]

    def _of(self, index: int, rest: tuple[Any, ...]) -> Any:
        array, size = self.arrays[index], self.shape[-1]
        if (longer := array.shape[-1] - size) and len(rest) == len(self.shape) - 1:
            last = np.arange(size)[rest[-1]] + longer
            rest = (*rest[:-1], int(last) if np.ndim(last) == 0 else last)
        with _damaged(self.directory):
            return np.asarray(array.oindex[rest])


def _open(path: Path) -> Any:
    """One shard as a zarr group that has what a shard must have."""
    with _damaged(path):
        group = zarr.open_group(path, mode="r", zarr_format=3)
        missing = [name for name in MEASURED if name not in group]
    if missing or "layout" not in group.attrs:
        raise InputError(
            f"the trace {path} is not a grokscope trace: it lacks {', '.join(missing) or 'layout'}."
        )
    return group


def _as_text(values: Any) -> Any:
    """Text of variable length as numpy's plain text; anything else unchanged."""
    return values.astype(object).astype(str) if values.dtype.kind in "TO" else values
