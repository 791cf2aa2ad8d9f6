"""Training examples and their order. The order has no state: the step number alone says which examples come
next.

Shape suffixes: N examples, B batch, S input positions, K labelled positions per example (the most of any), C
columns of a row: S tokens, K positions (absent if K = S), K targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grokscope.errors import InputError
from grokscope.seeds import generator
from grokscope.world.answers import further_atoms
from grokscope.world.corpus import Corpus
from grokscope.world.format import Encoded, FormatSpec, encode, positions
from grokscope.world.identity import identity_examples


@dataclass(frozen=True)
class RowLayout:
    """Where things stand in a row: S tokens, then K labelled positions (unless all are), then their K
    targets."""

    inputs: int
    """S, input positions."""
    labelled: int
    """K, labelled positions; an example with fewer is filled up with target 0, which carries no loss."""

    @classmethod
    def of(cls, fmt: FormatSpec, hops: int = 2) -> "RowLayout":
        """The layout of the examples of a format."""
        inputs = positions(fmt, hops)
        labelled = 1 if fmt.output == "answer" else 2 if fmt.attention == "causal" else inputs
        return cls(inputs, labelled)

    @property
    def columns(self) -> int:
        """C."""
        return self.inputs + self.labelled * (1 if self.labelled == self.inputs else 2)

    def split(self, rows_BC: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """tokens_BS, position_BK (None: all S positions, in order), target_BK."""
        last = rows_BC.shape[1]
        position_BK = None if self.labelled == self.inputs else rows_BC[:, self.inputs : last - self.labelled]
        return rows_BC[:, : self.inputs], position_BK, rows_BC[:, last - self.labelled :]


@dataclass(frozen=True, eq=False)
class TrainingData:
    """One epoch's examples, as two tensors with the same rows."""

    tokens_NS: Tensor
    """(N, S) int32 input token ids; an example that counts several times stands there several times."""
    labels_NS: Tensor
    """(N, S) int32 target token ids, 0: no loss here."""

    @classmethod
    def of(cls, parts: Sequence[tuple[Encoded, int]]) -> "TrainingData":
        """Put encoded queries one after another, each part repeated so many times.

        Raises:
            InputError: there is no example, or one without a label.
        """
        tokens_NS = np.concatenate([np.tile(part.tokens_NS, (times, 1)) for part, times in parts])
        labels_NS = np.concatenate([np.tile(part.labels_NS, (times, 1)) for part, times in parts])
        if not len(tokens_NS) or not (labels_NS != 0).any(axis=1).all():
            raise InputError(
                f"training data of {len(tokens_NS)} examples: needs at least 1, each with a label."
            )
        return cls(torch.from_numpy(tokens_NS).int(), torch.from_numpy(labels_NS).int())

    def __len__(self) -> int:
        return len(self.tokens_NS)

    def rows(self) -> tuple[Tensor, RowLayout]:
        """rows_NC (int32): all that a step needs of an example, so that one gather makes a batch."""
        position_NK, target_NK = labelled(self.labels_NS)
        layout = RowLayout(self.tokens_NS.shape[1], target_NK.shape[1])
        middle = [] if layout.labelled == layout.inputs else [position_NK]
        return torch.cat([self.tokens_NS, *middle, target_NK], dim=1), layout


def training_data(corpus: Corpus, fmt: FormatSpec, atom_repetition: int = 1) -> TrainingData:
    """What one epoch shows of a corpus: every atomic fact and further tail (and, if the corpus says so, every
    entity's identity) `atom_repetition` times, every trained composition once."""
    vocabulary, hops = corpus.world.vocabulary, corpus.spec.hops
    parts = [(encode(corpus.atomic, vocabulary, fmt, hops), atom_repetition)]
    if len(corpus.world.further_G3):
        parts.append((encode(further_atoms(corpus.world), vocabulary, fmt, hops), atom_repetition))
    if corpus.spec.identity_relation:
        parts.append((identity_examples(vocabulary, fmt, hops), atom_repetition))
    return TrainingData.of([*parts, (encode(corpus.composition, vocabulary, fmt, hops), 1)])


def labelled(labels_NS: Tensor) -> tuple[Tensor, Tensor]:
    """position_NK and target_NK (int32) of the labelled positions, in order, filled up with position 0,
    target 0.

    If K = S the positions are 0 .. S - 1 and targets are the labels themselves.
    """
    mask_NS = labels_NS != 0
    most, size = int(mask_NS.sum(1).max()) if len(labels_NS) else 0, labels_NS.shape[1]
    if most == size:
        return torch.arange(size, dtype=torch.int32).expand_as(labels_NS), labels_NS
    first_NS = torch.argsort(mask_NS.int(), dim=1, descending=True, stable=True)
    position_NK = torch.where(mask_NS.gather(1, first_NS), first_NS, 0)[:, :most]
    target_NK = torch.where(mask_NS.gather(1, first_NS), labels_NS.gather(1, first_NS), 0)[:, :most]
    return position_NK.int(), target_NK.int()


class Batches:
    """The batch of every step. Epoch e is the permutation drawn from `generator("order", seed, e)`.

    Each epoch shuffles without replacement; the last partial batch is dropped.

    Args:
        data: the examples.
        batch: examples per step.
        seed: seed of the stream "order".
        device: where the batches are needed; all examples are kept there.

    Raises:
        InputError: the batch is larger than the data.
    """

    def __init__(self, data: TrainingData, batch: int, seed: int, device: torch.device | str = "cpu") -> None:
        if batch > len(data):
            raise InputError(
                f"training.batch = {batch}: must be at most the number of examples, {len(data)}."
            )
        rows_NC, self.layout = data.rows()
        self.rows_NC = rows_NC.to(device)
        self.batch, self.seed, self.examples = batch, seed, len(data)
        self.per_epoch = len(data) // batch
        self._epoch = -1
        self._order_N = torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int) -> Tensor:
        """rows_BC for the update that takes `step` to `step + 1`."""
        return self.rows_NC.index_select(0, self.index(step))

    def index(self, step: int) -> Tensor:
        """index_B: which rows these are."""
        epoch, offset = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order_N = generator("order", self.seed, epoch).permutation(self.examples)
            self._order_N, self._epoch = torch.from_numpy(order_N).to(self.rows_NC.device), epoch
        start = offset * self.batch
        return self._order_N[start : start + self.batch]


def loops_at(step: int, choices: tuple[int, ...] | None, seed: int) -> int | None:
    """Number of loops of a step, drawn from `choices` by `generator("loops", seed, step)`; None: the model's
    own."""
    return None if choices is None else choices[int(generator("loops", seed, step).integers(len(choices)))]
