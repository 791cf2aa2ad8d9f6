"""What a fine-tuning is shown: new and retained facts.

It is the ordinary training, starting from a base's weights: the same loop, so the same resume guarantee, the
same manifest and the same files. The optimiser starts afresh: what is kept of a base is its averaged weights.

Shape suffixes: N examples, S input positions.
"""

import numpy as np
import torch

from grokscope.seeds import Seeds, generator
from grokscope.training.data import TrainingData
from grokscope.training.spec import TrainingSpec
from grokscope.transfer.spec import TransferSpec
from grokscope.world.arrays import IntArray
from grokscope.world.format import FormatSpec, encode
from grokscope.world.identity import identity_examples
from grokscope.world.newfacts import NewFacts
from grokscope.world.queries import Queries


def tuning_data(
    new: NewFacts, fmt: FormatSpec, spec: TransferSpec, training: TrainingSpec, seeds: Seeds
) -> TrainingData:
    """One epoch: new atoms and taught compositions, retained atoms and compositions (and identities, which
    count as old), each as often as the spec says.

    Raises:
        InputError: the vocabulary has no token for the identity relation that is asked for.
    """
    repetition = spec.tuning.repetition or training.atom_repetition
    sides = [
        _rows(new, fmt, (new.new_atoms, repetition), (new.taught, 1)),
        _rows(new, fmt, (new.retained_atoms, training.atom_repetition), (new.retained, 1)),
    ]
    if spec.tuning.identity_relation:
        same = identity_examples(new.world.vocabulary, fmt)
        tokens_NS, labels_NS = (
            np.tile(part_NS, (training.atom_repetition, 1)) for part_NS in (same.tokens_NS, same.labels_NS)
        )
        old = sides[1]
        sides[1] = (np.concatenate([old[0], tokens_NS]), np.concatenate([old[1], labels_NS]))
    if spec.tuning.replay is not None and len(sides[1][0]):
        wanted = _balanced(len(sides[0][0]), len(sides[1][0]), spec.tuning.replay)
        rng = generator("newfacts", seeds.split, spec.facts.seed, 5)
        index = [_copies(len(side[0]), count, rng) for side, count in zip(sides, wanted, strict=True)]
        sides = [(side[0][at], side[1][at]) for side, at in zip(sides, index, strict=True)]
    tokens_NS, labels_NS = (np.concatenate([side[part] for side in sides]) for part in (0, 1))
    return TrainingData(torch.from_numpy(tokens_NS).int(), torch.from_numpy(labels_NS).int())


def _rows(new: NewFacts, fmt: FormatSpec, *parts: tuple[Queries, int]) -> tuple[IntArray, IntArray]:
    """tokens_NS and labels_NS of queries, each part so many times."""
    every = [(encode(queries, new.world.vocabulary, fmt), times) for queries, times in parts]
    tokens_NS = np.concatenate([np.tile(one.tokens_NS, (times, 1)) for one, times in every])
    return tokens_NS, np.concatenate([np.tile(one.labels_NS, (times, 1)) for one, times in every])


def _balanced(fresh: int, old: int, replay: float) -> tuple[int, int]:
    """Rows of new and of old examples at `replay` old ones per new one; neither is fewer than it was."""
    if old > replay * fresh:
        return round(old / replay), old
    return fresh, round(replay * fresh)


def _copies(rows: int, wanted: int, rng: np.random.Generator) -> IntArray:
    """(wanted,) row numbers: whole copies, and a random part of one more."""
    whole, part = divmod(wanted, rows)
    return np.concatenate([np.tile(np.arange(rows), whole), np.sort(rng.permutation(rows)[:part])])
