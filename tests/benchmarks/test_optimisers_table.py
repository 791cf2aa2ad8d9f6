"""The optimiser study and its table: what never got there is later, not missing."""

import math

import numpy as np
import pytest
from benchmarks.optimisers import Reached, main, median, ratio, reached

from grokscope.errors import InputError
from grokscope.studies.directory import run_directory
from grokscope.studies.execute import plan
from grokscope.studies.files import load_study
from grokscope.studies.plan import prepare
from grokscope.studies.run import Run
from grokscope.studies.spec import StudySpec
from grokscope.studies.worker import do_run
from grokscope.training.metrics import MetricsFile


def test_families_are_the_pocket_studys_recipe_but_for_what_their_names_say():
    pocket, base = load_study("pocket"), load_study("optimisers")
    free = {"steps": 1, "checkpoints_per_doubling": 4}
    assert base.training.replace(**free) == pocket.training.replace(**free)
    assert (base.world, base.model, base.format, base.corpus) == (
        pocket.world, pocket.model, pocket.format, pocket.corpus,
    )  # fmt: skip
    assert load_study("optimisers", "muon_grokfast").training.optimizer.grokfast == 2.0
    assert load_study("optimisers", "adamw_grokfast").training.optimizer.kind == "adamw"
    assert load_study("optimisers", "muon_cosine").training.schedule == "cosine"


def test_a_censored_run_is_late_not_missing():
    assert median([100, 200, 300], [False, False, False]) == (200, False)
    assert median([100, 200, 900], [False, False, True]) == (200, False)
    assert median([100, 900, 900], [False, True, True]) == (900, True)
    assert median([900, 900, 900], [True, True, True]) == (900, True)


def test_a_ratio_needs_pairs_that_both_got_there():
    def times(*steps):
        return {seed: Reached(step, 1.0, False) for seed, step in enumerate(steps)}

    found = ratio(times(100, 210, 290), times(300, 600, 900))
    logs = np.log([100 / 300, 210 / 600, 290 / 900])
    assert found is not None
    assert found.value == pytest.approx(math.exp(logs.mean()))
    half = 4.302653 * logs.std(ddof=1) / math.sqrt(3)  # t quantile of 2 degrees of freedom, 0.975
    assert (found.low, found.high) == pytest.approx(tuple(np.exp([logs.mean() - half, logs.mean() + half])))
    assert found.low < found.value < found.high < 1
    assert ratio(times(100, 200), times(300, 600)) is None
    assert ratio({**times(100, 210, 290), 1: Reached(900, 1.0, True)}, times(300, 600, 900)) is None


def test_the_table_is_printed_from_finished_runs(tmp_path, capsys):
    tiny = {
        "world": {"entities": 12, "relations": 8, "degree": 5, "ood_fraction": 0.15},
        "corpus": {"phi": 2, "iid_fraction": 0.1},
        "model": {"kind": "looped", "width": 16, "heads": 2, "layers": 1, "loops": 1},
        "training": {"steps": 4, "batch": 16, "warmup": 1, "loss": "softmax", "compile": "off"},
        "causal": {"enabled": False},
        "regimes": ["natural"],
    }
    for family in ("muon", "adamw"):
        study = StudySpec.parse({**tiny, "name": "optimisers", "family": family})
        planned = plan(study, tmp_path / family)
        prepare(study, tmp_path / family, planned)
        do_run(planned[0].directory, threads=1)
    run = Run.open(run_directory(tmp_path / "muon", "natural-s0", study.expand()["natural-s0"]))
    rows = MetricsFile(run.directory).rows()
    assert reached(run, "test_ood", 0.0).step == 0
    assert reached(run, "test_ood", 1.1) == Reached(4, rows[-1]["seconds"], True)
    with pytest.raises(InputError, match="probe set 'nowhere'"):
        reached(run, "nowhere", 0.5)
    main([str(tmp_path / "muon"), str(tmp_path / "adamw")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| muon | natural | 1 | > 4 (0 of 1) |")
    assert lines[3].startswith("| adamw | natural | 1 |")
    assert "cannot tell" in lines[3]
    assert "cannot tell" not in lines[2]
