"""A study of comparisons, from its file to its report: traced, diagnosed, read by a probe, and not judged."""

from pathlib import Path

import pytest

from grokscope import cli
from grokscope.mechanics.read.probe import probe
from grokscope.runs.estimate import examinations
from grokscope.runs.open import Run
from tests.runs.tiny import plan_runs, tiny_study, trained

STUDY = tiny_study(
    regimes=["natural"],
    world={"entities": 30, "relations": 6, "degree": 6, "ood_fraction": 0.3, "values": 8},
    corpus={"task": "comparison", "phi": 8.0},
)


def test_a_run_of_comparisons_has_all_that_needs_no_bridge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert STUDY.causal.enabled
    run = Run.open(trained(STUDY, tmp_path)[0])
    assert run.verdict is None
    assert [row.action for row in plan_runs(STUDY, tmp_path)] == ["skip"]
    assert not examinations(run.spec, {name: len(one) for name, one in run.corpus.probes.items()})
    assert run.diagnosis is not None
    assert {"value1.test_ood", "value2_before_last.test_ood"} <= run.diagnosis.events.keys()
    probes, encoded = run.corpus.probes["train_inferred"], run.checked.encoded["train_inferred"]
    for latent in ("value1", "value2", "answer"):
        assert int(probe(run.model(), probes, encoded, latent)["n"]) > 0
    assert cli.main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "figures" / "natural_value2_map.png").exists()
    for command in ("patch", "trace", "diagnose"):
        assert cli.main([command, str(run.directory)]) == 2
        assert "corpus.task = 'comparison': nothing is chained" in capsys.readouterr().err
