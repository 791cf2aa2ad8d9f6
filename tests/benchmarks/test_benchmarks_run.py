"""The benchmark compares like with like, and runs."""

import json

import numpy as np
import pytest
import torch
from benchmarks.plain import PlainTrainer
from benchmarks.shapes import build, built, setup, shape

from benchmarks import gpu, looking, machine, paper_size, run, tables
from grokscope.mechanics.patch.interchange import Setting, draw_donors, interchange, source_of
from grokscope.mechanics.read.lens import lens, targets
from grokscope.training.step import eager_step
from grokscope.world.format import encode

FLOAT = {"training": {"dtype": "float32", "warmup": 0}}


@pytest.mark.parametrize("name", run.NAMES)
def test_plain_baseline_makes_the_same_steps(name):
    plain, ours = PlainTrainer(setup(shape(name, True, FLOAT))), setup(shape(name, True, FLOAT))
    step = eager_step(ours.objective, ours.optimizer)
    wanted = [plain.step(number) for number in range(5)]
    with torch.no_grad():
        got = [float(step(ours.state, ours.batches(n), ours.optimizer.scalars(n), None)) for n in range(5)]
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    for parameter, average in plain.average.items():
        assert (ours.state.ema[parameter] - average).norm() < 1e-3 * average.norm() + 1e-6


@pytest.mark.parametrize("name", run.NAMES)
def test_loops_one_at_a_time_see_the_same(name):
    spec = shape(name, True)
    model, corpus = build(spec, "float32"), built(spec).corpus
    probe_set, vocabulary = corpus.probes["train_inferred"], corpus.world.vocabulary
    encoded = encode(probe_set.queries, vocabulary, spec.format)
    names, target_PC = targets(probe_set, vocabulary)
    seen = lens(model, probe_set, encoded, vocabulary)
    found = looking.lens_loop(model, encoded.tokens_NS[:1], target_PC[:1])
    each = len(names) + 1
    for stage in range(len(model.stages)):
        rank_S, logp_S = found[stage * each]
        np.testing.assert_array_equal(seen["rank"][0, 0, stage], rank_S)
        np.testing.assert_allclose(seen["logp"][0, 0, stage], logp_S, atol=1e-4)
        np.testing.assert_array_equal(seen["argmax"][0, stage], found[(stage + 1) * each - 1])

    setting = Setting(corpus.world, corpus.composition, spec.format)
    maps = interchange(model, probe_set, setting, [looking.ARM])
    there = int(np.argmax(maps["present"].values[0]))
    donors = draw_donors(model, setting, probe_set, [looking.ARM])[looking.ARM]
    source_PS = source_of(setting, donors).tokens_PMS[there : there + 1, 0]
    tokens_PS = encoded.tokens_NS[there : there + 1]
    answered = looking.interchange_loop(model, tokens_PS, source_PS, encoded.answer_position)
    said = torch.stack(answered).argmax(-1)
    np.testing.assert_array_equal(maps["said"].values[0, :, :, there].reshape(-1), said)


def test_quick_run_fills_the_document(tmp_path, capsys):
    out = tmp_path / "speed.json"
    run.main(["--quick", "--only", "matmul", "steps", "phases", "saving", "population", "--out", str(out)])
    results = json.loads(out.read_text())
    assert set(results["cpu"]) == {"matmul", "steps", "phases", "saving", "population"}
    assert {row["variant"] for row in results["cpu"]["steps"]["rows"]} == {"plain", "eager"}
    assert all(row["speedup"] > 0 for row in results["cpu"]["steps"]["rows"])
    assert "| pocket | 1 | plain |" in capsys.readouterr().out

    document = tmp_path / "speed.md"
    places = (f"<!-- table {name} -->\nold\n<!-- end -->" for name in ("cpu matmul", "cuda steps"))
    document.write_text("\n".join(["before", *places]))
    tables.fill(document, results)
    text = document.read_text()
    assert text.startswith("before\n<!-- table cpu matmul -->\n| dtype")
    assert "old" not in text
    assert "Not measured" in text


def test_paper_size_looks_at_a_run_and_at_the_loop_beside_it(tmp_path):
    """A donor or a row taken from another query, or a cell out of order, would show as a difference."""
    made = paper_size.make_run(tmp_path / "run", True)
    rows = paper_size.look(made, "float32", 1, True, tmp_path / "said.npz")
    assert [row["instrument"] for row in rows] == ["lens", "interchange"]
    for row in rows:
        assert row["difference"] < 1e-3
        assert row["agrees"] > 0.99
    # The lens looks at two registers beside the five tokens.
    assert [row["compared"] for row in rows] == [2 * 7 * 7, 2 * 7 * 5]
    assert np.load(tmp_path / "said.npz")["interchange"].shape == (1, 7, 5, 12)
    table = tables.table("paper_size", machine.measured(lambda: rows, "cpu", second=0.05))
    assert "| lens | float32 | 12 | 1 |" in table


def test_the_gpu_program_runs_on_a_cpu_and_says_what_it_did_not_measure(tmp_path, capsys):
    out = tmp_path / "speed.json"
    gpu.main(["--device", "cpu", "--quick", "--out", str(out)])
    results = json.loads(out.read_text())["cpu"]
    assert list(results) == list(gpu.SECTIONS)
    assert [(row["shape"], row["variant"]) for row in results["gpu_steps"]["rows"]] == [
        (name, variant) for name in gpu.SHAPES for variant in ("plain", "eager")
    ]
    assert [row["members"] for row in results["population"]["rows"]] == [1, 2, 1, 2]
    assert [row["shape"] for row in results["gpu_equal"]["rows"] if row["weights"] < 0.01] == [
        "small",
        "pocket",
    ]
    assert all(row["seconds"] > 0 for row in results["gpu_looking"]["rows"])
    capsys.readouterr()
    gpu.main(["--device", "cpu", "--quick", "--minutes", "-1", "--out", str(out)])
    assert "gpu_steps: not measured, the -1 minutes are over" in capsys.readouterr().out
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu.main(["--out", str(out)])
        assert "sees no GPU" in capsys.readouterr().err


def test_a_variant_that_fails_has_its_error_in_the_table():
    def failing():
        raise RuntimeError("no capture here\nmore")

    calls, broken = gpu._working({"a": lambda: int, "b": failing})
    assert (list(calls), broken) == (["a"], {"b": "no capture here"})
