"""A study of three hops, from its file to its report: every bridge is examined, kept, drawn and named."""

from pathlib import Path

import numpy as np
import pytest

from grokscope import cli
from grokscope.errors import InputError
from grokscope.report.causal_context import causal_groups
from grokscope.report.causal_figures import run_sketches
from grokscope.report.figures import ood_sets
from grokscope.report.gather import gather
from grokscope.report.summary import sentences
from grokscope.runs.causal import answer_position, one_query
from grokscope.runs.estimate import examinations
from grokscope.runs.open import Run
from grokscope.runs.study import Study
from grokscope.world.probes import ONE_OOD
from tests.runs.tiny import plan_runs, tiny_study, trained

REGIME = {"name": "two", "hop1_ratio": 1, "hop1_k": 2, "hop2_ratio": 1, "hop2_k": 2}
STUDY = tiny_study(
    regimes=[REGIME],
    world={"entities": 24, "relations": 12, "degree": 8, "ood_fraction": 0.3},
    corpus={"hops": 3},
    causal={"probes": 12, "sets": ["train_inferred", "test_ood"]},
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    out = tmp_path_factory.mktemp("three")
    return out, Run.open(trained(STUDY, out)[0])


def test_both_bridges_are_traced_examined_and_kept(done: tuple[Path, Run]) -> None:
    out, run = done
    assert {"bridge1", "bridge2", "answer"} <= set(run.traces["variable"].values.tolist())
    assert run.diagnosis is not None
    assert "bridge2.test_ood" in run.diagnosis.events
    verdict = run.verdict
    assert verdict is not None
    assert verdict.latents == ("bridge1", "bridge2")
    last = [one for one in verdict.sets if one.step == verdict.step]
    assert [(one.probe_set, one.latent) for one in last] == [
        (name, latent) for name in STUDY.causal.sets for latent in verdict.latents
    ]
    assert verdict.of("test_ood", latent="bridge2") in last
    assert {tree["latent"] for tree in verdict.tree()["sets"]} == set(verdict.latents)
    assert set(run.causal["latent"]) == set(verdict.latents)
    planned = examinations(run.spec, {name: len(one) for name, one in run.corpus.probes.items()})
    assert len(planned) >= len(verdict.sets)
    assert [row.action for row in plan_runs(STUDY, out)] == ["skip"]


def test_a_query_is_named_by_all_its_tokens(done: tuple[Path, Run]) -> None:
    run = done[1]
    probes = run.corpus.probes["test_ood"]
    vocabulary, queries = run.world.vocabulary, probes.queries
    words = [
        vocabulary.entity(int(queries.head_N[0])),
        *map(vocabulary.relation, queries.relation_NK[0].tolist()),
    ]
    found = one_query(run, " ".join(word.strip("<>") for word in words), probes)
    np.testing.assert_array_equal(found.fact_PK, probes.fact_PK[:1])
    with pytest.raises(InputError, match="a head and three relations"):
        one_query(run, " ".join(words[:3]), probes)


@pytest.mark.parametrize("command", ["trace", "patch"])
def test_either_bridge_can_be_looked_at(
    command: str, done: tuple[Path, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = done[1].directory
    assert cli.main([command, str(directory), "--hop", "2", "--probes", "12"]) == 0
    assert "test_ood, bridge2" in capsys.readouterr().out
    assert list((directory / "figures").glob(f"{command}*bridge2*.png"))
    assert cli.main([command, str(directory), "--hop", "3"]) == 2
    assert "hop = 3: the bridges of this run are after hop 1 to 2." in capsys.readouterr().err


def test_the_report_has_a_panel_per_bridge_and_names_the_missing_hop(done: tuple[Path, Run]) -> None:
    out, run = done
    view = gather(Study.open(out))
    assert run.verdict is not None
    assert set(view.causal["latent"]) == {"bridge1", "bridge2"}
    assert [head for head, _ in causal_groups(list(view.runs))] == [
        f"Causal test, {name}, {latent}" for name in STUDY.causal.sets for latent in ("bridge1", "bridge2")
    ]
    sketches = run_sketches(run.name, run.causal.to_dicts(), run.verdict, answer_position(run))
    assert [one.title.rpartition(", ")[2] for one in sketches] == ["bridge1", "bridge2"]
    said = " ".join(sentences(view, "two"))
    assert "as third hop" in said
    assert list(ood_sets(view.curves)) == ["test_ood", *ONE_OOD[:3]]
