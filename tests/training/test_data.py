"""Examples and their order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.errors import InputError
from grokscope.training.data import Batches, TrainingData, loops_at
from grokscope.world import Encoded
from tests.training import tiny


def numbered(count: int) -> TrainingData:
    """Examples whose first token is their number."""
    tokens = torch.arange(1, count + 1, dtype=torch.int32)[:, None].repeat(1, 2)
    labels = torch.ones_like(tokens)
    return TrainingData(tokens, labels)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 2**31), st.integers(0, 4))
def test_an_epoch_shows_every_example_once_and_drops_the_rest(count, batch, seed, epoch):
    batch = min(batch, count)
    batches = Batches(numbered(count), batch, seed)
    per_epoch = count // batch
    rows = [batches(epoch * per_epoch + i) for i in range(per_epoch)]
    seen = torch.cat(rows)[:, 0].tolist()
    assert all(len(row) == batch for row in rows)
    assert len(set(seen)) == len(seen) == per_epoch * batch


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 100), st.integers(0, 2**31), st.lists(st.integers(0, 60), min_size=1, max_size=10))
def test_the_step_number_is_all_the_order_knows(count, seed, steps):
    straight = Batches(numbered(count), 7, seed)
    expected = [straight(step) for step in range(61)]
    jumping = Batches(numbered(count), 7, seed)
    for step in steps:
        assert torch.equal(jumping(step), expected[step])


def test_epochs_and_seeds_differ():
    batches = Batches(numbered(64), 64, 0)
    other = Batches(numbered(64), 64, 1)
    assert not torch.equal(batches(0), batches(1))
    assert not torch.equal(batches(0), other(0))


@pytest.mark.parametrize("kind", ["looped", "gpt2", "recursive", "mixer"])
def test_rows_hold_tokens_and_labels(kind):
    data = tiny.data(kind)
    rows_NC, layout = data.rows()
    tokens, position, target = layout.split(rows_NC)
    assert torch.equal(tokens, data.tokens_NS)
    back = torch.zeros_like(data.labels_NS)
    if position is None:
        back = target
    else:
        assert layout.labelled < layout.inputs
        for column in range(layout.labelled):
            hit = target[:, column] != 0
            back[hit, position[hit, column].long()] = target[hit, column]
    assert torch.equal(back, data.labels_NS)
    assert layout.labelled == {"looped": 1, "gpt2": 2, "recursive": 5, "mixer": 1}[kind]


def test_atoms_are_repeated_and_compositions_are_not():
    corpus = tiny.corpus()
    data = tiny.data("looped")
    facts = len(corpus.world.fact_F3)
    assert len(data) == 2 * facts + len(corpus.composition)
    rows, counts = np.unique(data.tokens_NS.numpy(), axis=0, return_counts=True)
    assert sorted(set(counts[rows[:, 2] == 0])) == [2]
    assert sorted(set(counts[rows[:, 2] != 0])) == [1]


def test_loops_are_drawn_by_the_step():
    drawn = [loops_at(step, (2, 3, 5), 0) for step in range(300)]
    assert drawn == [loops_at(step, (2, 3, 5), 0) for step in range(300)]
    assert {drawn.count(n) > 60 for n in (2, 3, 5)} == {True}
    assert loops_at(0, None, 0) is None


def test_too_large_a_batch_and_no_labels_are_named():
    with pytest.raises(InputError, match=r"training\.batch = 65: .* 64"):
        Batches(numbered(64), 65, 0)
    blank = Encoded(np.ones((3, 2), np.int32), np.zeros((3, 2), np.int32), 1, ("head", "relation1"))
    with pytest.raises(InputError, match="label"):
        TrainingData.of([(blank, 1)])
