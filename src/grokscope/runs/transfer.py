"""Reading transfers: a `Transfer` is opened from its directory, and asked, as a `Run` is."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from grokscope.errors import InputError
from grokscope.files import read_json
from grokscope.runs.directory import DONE, SPEC
from grokscope.runs.trained import Trained
from grokscope.runs.transfer_spec import TransferRunSpec

if TYPE_CHECKING:
    import polars as pl

    from grokscope.models.protocol import Reasoner
    from grokscope.transfer.result import BaseStanding, TransferResult
    from grokscope.world.newfacts import NewFacts

FOLDER = "transfers"
"""Where a study keeps its transfers, and where those of a single run go, beside it."""
BASE_WEIGHTS, BASE, RESULT, CELLS = "base.safetensors", "base.json", "transfer.json", "transfer_cells.csv"


class Transfer(Trained[TransferRunSpec]):
    """One transfer, finished or not. Nothing is read before it is asked for, and nothing is ever written.

    Attributes:
        directory: where it is kept.
        spec: everything it depends on.
    """

    @classmethod
    def open(cls, directory: str | Path) -> "Transfer":
        """Open a transfer's directory.

        Raises:
            InputError: it has no spec of a transfer, or one that cannot be read.
        """
        directory = Path(directory)
        return cls(directory, read_transfer_spec(directory))

    @cached_property
    def base(self) -> "BaseStanding":
        """What is known of the base."""
        from grokscope.transfer.result import BaseStanding

        return BaseStanding.parse(read_json(self.directory / BASE, "description of a base"))

    @cached_property
    def curves(self) -> "pl.DataFrame":
        """Accuracies per checkpoint, also among queries with known atoms: `transfer.outcome.curves_of`."""
        from grokscope.transfer.outcome import curves_of

        return curves_of(self.traces)

    def model(self, step: int | None = None) -> "Reasoner":
        """The model with the averaged weights of a checkpoint, ready to evaluate, on the CPU.

        Args:
            step: one of `steps`; None: the last.

        Raises:
            InputError: there is no checkpoint of that step, or it is corrupt.
        """
        return load_model(self.spec, self.new, self.weights(step))

    @cached_property
    def new(self) -> "NewFacts":
        """New facts, fine-tuning data and probes, rebuilt from the spec.

        Raises:
            InputError: what is built is not what the transfer was trained on.
        """
        from grokscope.runs.run import check_fingerprint

        new = build(self.spec)
        check_fingerprint(self.directory, new.fingerprint)
        return new

    @property
    def result(self) -> "TransferResult | None":
        """What came out; None: not finished."""
        from grokscope.transfer.result import TransferResult

        if not (self.directory / DONE).exists():
            return None
        return TransferResult.parse(read_json(self.directory / RESULT, "transfer result"))

    @property
    def cells(self) -> "pl.DataFrame":
        """Every cell of the examination with its rate: columns as `transfer.outcome.CELLS`.

        Raises:
            InputError: it is not finished.
        """
        import polars as pl

        path = self.directory / CELLS
        if not path.exists():
            raise InputError(f"transfer {self.name} is not finished: it has no {CELLS} yet.")
        return pl.read_csv(path, schema_overrides={"position": pl.String})


def read_transfer_spec(directory: Path) -> TransferRunSpec:
    """The spec a transfer's directory was made for.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    return TransferRunSpec.parse(read_json(directory / SPEC, "transfer spec"), str(directory / SPEC))


def is_transfer(directory: Path) -> bool:
    """Whether a directory's spec is a transfer's."""
    tree = read_json(directory / SPEC, "spec")
    return isinstance(tree, dict) and "transfer" in tree


def build(spec: TransferRunSpec) -> "NewFacts":
    """New facts from nothing but a spec."""
    from grokscope.world.corpus import build_corpus
    from grokscope.world.graph import build_world
    from grokscope.world.newfacts import build_new_facts

    base = spec.base
    corpus = build_corpus(build_world(base.world, base.seeds), base.corpus, base.regime, base.seeds)
    return build_new_facts(corpus, spec.transfer.facts, base.seeds)


def load_model(spec: TransferRunSpec, new: "NewFacts", weights: Path) -> "Reasoner":
    """The base's model with the weights of a file.

    Raises:
        InputError: the file is missing, damaged, or of another architecture.
    """
    from grokscope.models.build import build_model
    from grokscope.training.checkpoint import load_weights
    from grokscope.world.format import positions

    base = spec.base
    model = build_model(
        spec.model,
        new.world.vocabulary.size,
        positions(base.format),
        base.format,
        base.seeds.init,
        base.training.dtype,
    )
    load_weights(weights, model)
    return model.eval()
