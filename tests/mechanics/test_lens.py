"""The lens against plain loops over one query, one stage, one position at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.errors import InputError
from grokscope.mechanics.read.lens import lens, measure, targets
from grokscope.training.evaluate import correct

from .tiny import FORMATS, corpus, encoded, model, read


@pytest.mark.parametrize("kind", ["looped", "recursive", "mixer"])
def test_equals_one_query_at_a_time(kind):
    name = "test_ood"
    found, reasoner, tokens_PS = read(kind, name, batch=7), model(kind), encoded(kind, name).tokens_NS
    names, target_PC = targets(corpus().probes[name], corpus().world.vocabulary)
    assert names == ["bridge", "answer", "control_bridge", "control_answer"]
    with torch.no_grad():
        for p in range(0, len(tokens_PS), 3):
            carry = reasoner.start(torch.from_numpy(tokens_PS[p : p + 1]).long())
            for stage in reasoner.stages:
                if stage.index:
                    carry = reasoner.step(carry, stage.index)
                logits_SV = reasoner.unembed(reasoner.read(carry, stage.index))[0]
                logp_SV = logits_SV.log_softmax(-1).numpy()
                for c in range(len(names)):
                    token = target_PC[p, c]
                    np.testing.assert_allclose(
                        found["logp"].values[p, c, stage.index], logp_SV[:, token], atol=2e-5
                    )
                    for s, logit_V in enumerate(logits_SV.numpy()):
                        got = found["rank"].values[p, c, stage.index, s]
                        # Sums differ in their last bits between batch sizes, so near-equal logits may swap.
                        above, near = logit_V > logit_V[token], np.abs(logit_V - logit_V[token]) < 1e-5
                        assert (above & ~near).sum() <= got < (above | near).sum() + 1


@pytest.mark.parametrize("kind", ["looped", "recursive", "mixer", "given"])
def test_last_stage_is_the_output(kind):
    for name in ("id_atomic", "test_iid"):
        found, query = read(kind, name), encoded(kind, name)
        with torch.no_grad():
            logits_PSV = model(kind)(torch.from_numpy(query.tokens_NS).long())
        found = found.sel(position=found["position"] >= 0)
        assert (found["argmax"].isel(stage=-1).values == logits_PSV.argmax(-1).numpy()).all()
        logp_PS = logits_PSV.log_softmax(-1)[
            torch.arange(len(query.tokens_NS)), query.answer_position
        ].gather(1, torch.from_numpy(query.labels_NS[:, [query.answer_position]]).long())[:, 0]
        answer = found["logp"].isel(stage=-1, position=query.answer_position)
        answer = answer.sel(variable="answer").values
        np.testing.assert_allclose(answer, logp_PS.numpy(), atol=1e-5)
        assert (found["exact"].values == correct(model(kind), query)).all()


def test_exact_is_rank_zero_where_the_label_is_one_token():
    reasoner, query, probes = model("looped"), encoded("looped", "id_atomic"), corpus().probes["id_atomic"]
    with torch.no_grad():
        answer_P = reasoner(torch.from_numpy(query.tokens_NS).long())[:, query.answer_position].argmax(-1)
    query.labels_NS[:5, query.answer_position] = answer_P[:5].numpy()
    found = lens(reasoner, probes, query, corpus().world.vocabulary)
    assert found["exact"].values[:5].all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.data())
def test_rank_is_the_place_in_a_stable_descending_sort(rows, data):
    """Small integers make ties common; a tie broken for or against the target would move ranks."""
    logits_BSV = torch.tensor(rows, dtype=torch.float32)[:, None, :].repeat(1, 2, 1)
    logits_BSV[:, 1] = -logits_BSV[:, 1]
    token = st.integers(0, 5)
    target_BC = torch.tensor([[data.draw(token), data.draw(token)] for _ in rows])
    rank_BCS, logp_BCS, argmax_BS = measure(logits_BSV, target_BC)
    for b in range(len(rows)):
        for s in range(2):
            order = np.argsort(-logits_BSV[b, s].numpy(), kind="stable")
            assert argmax_BS[b, s] == order[0]
            for c in range(2):
                assert rank_BCS[b, c, s] == order.tolist().index(target_BC[b, c])
                expected = logits_BSV[b, s].log_softmax(-1)[target_BC[b, c]]
                assert torch.isclose(logp_BCS[b, c, s], expected, atol=1e-6)


def test_not_a_number_is_never_found():
    logits_BSV = torch.full((1, 1, 5), float("nan"))
    rank_BCS, logp_BCS, _ = measure(logits_BSV, torch.tensor([[0]]))
    assert rank_BCS.item() >= 4
    assert torch.isnan(logp_BCS).all()
    logits_BSV = torch.tensor([[[0.0, float("nan"), 1.0]]])
    assert measure(logits_BSV, torch.tensor([[1]]))[0].item() > 0


def test_batches_and_mode_leave_no_mark():
    reasoner, probes = model("recursive"), corpus().probes["test_iid"]
    query, vocabulary = encoded("recursive", "test_iid"), corpus().world.vocabulary
    before = {name: value.clone() for name, value in reasoner.state_dict().items()}
    reasoner.train()
    small, large = (lens(reasoner, probes, query, vocabulary, batch) for batch in (3, 500))
    assert reasoner.training
    assert all(torch.equal(before[name], value) for name, value in reasoner.state_dict().items())
    np.testing.assert_allclose(small["logp"].values, large["logp"].values, atol=2e-5)
    assert (small["probe"].values == probes.id_P).all()


def test_training_goes_on_after_reading():
    """Tensors cached while reading must still carry gradients afterwards."""
    reasoner, query = model("recursive"), encoded("recursive", "test_iid")
    lens(reasoner, corpus().probes["test_iid"], query, corpus().world.vocabulary)
    tokens_BS = torch.from_numpy(query.tokens_NS).long()
    reasoner.unembed(reasoner.hidden(tokens_BS)).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in reasoner.parameters())


def test_positions_given_the_answer_are_not_counted():
    assert read("given", "test_iid")["counted"].values.tolist() == [[True, True, True, False]]
    assert read("given", "id_atomic")["counted"].values.tolist() == [[True, True, False, False]]
    for kind in set(FORMATS) - {"given"}:
        assert read(kind, "test_iid")["counted"].values.all()


def test_roles_and_facts_are_those_of_the_set():
    found, probes = read("recursive", "test_ood"), corpus().probes["test_ood"]
    assert found["role"].values.tolist() == [
        ["prefix0", "prefix1", "prefix2", "head", "relation1", "relation2", "answer", "end"]
    ]
    assert found["position"].values.tolist() == [-3, -2, -1, 0, 1, 2, 3, 4]
    assert (found["fact"].values == probes.fact_PK).all()
    assert found["pattern"].item() == "OO"
    assert found["rank"].dtype == np.int16


def test_bad_input_is_one_sentence():
    probes, vocabulary = corpus().probes["test_ood"], corpus().world.vocabulary
    with pytest.raises(InputError, match="batch = 0"):
        lens(model("looped"), probes, encoded("looped", "test_ood"), vocabulary, batch=0)
    with pytest.raises(InputError, match="one row per probe"):
        lens(model("looped"), probes, encoded("looped", "ood_atomic"), vocabulary)
