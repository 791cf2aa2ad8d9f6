"""What goes wrong is one sentence that names it, and nothing is lost."""

import errno
import json
import math
import os
import re
import shutil
import signal
import threading
from functools import partial

import pytest
import torch

from grokscope.errors import InputError
from grokscope.models import tensor_file as tensors
from grokscope.training import checkpoint, keeper, metrics, trainer
from grokscope.training import step as step_module
from grokscope.training.checkpoint import find_state, kept_steps, load_weights, weights_path
from grokscope.training.data import TrainingData
from grokscope.training.loop import train
from grokscope.training.manifest import read_manifest
from grokscope.training.member import Member
from grokscope.training.metrics import MetricsFile, read_metrics
from grokscope.training.spec import OptimizerSpec
from grokscope.training.stops import Diverged, Interrupted, watch_signals
from tests.training import tiny


def full_disk(*args, **settings):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


def finite(path):
    return all(bool(torch.isfinite(t).all()) for t in tensors.read_tensors(path, "file").values())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    tiny.run(directory)
    return directory


@pytest.fixture
def done(finished, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_divergence_stops_and_keeps_the_last_good_state(tmp_path):
    wild = OptimizerSpec(kind="adamw", lr=1e30, weight_decay=0.0)
    with pytest.raises(
        Diverged, match=r"diverged: at step \d+ .* step 0 .*training\.optimizer\.lr"
    ) as caught:
        tiny.run(tmp_path, optimizer=wild, warmup=0, steps=300, first_checkpoint=200, dense_every=200)
    assert caught.value.kept == 0
    assert kept_steps(tmp_path) == [0]
    assert finite(weights_path(tmp_path, 0))
    assert finite(tmp_path / "resume/step_00000000.safetensors")
    assert read_metrics(tmp_path)["step"].to_list() == [0]
    with pytest.raises(Diverged):
        tiny.run(tmp_path, optimizer=wild, warmup=0, steps=300, first_checkpoint=200, dense_every=200)


def test_a_loss_far_above_its_start_is_divergence_too(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "DIVERGED", 0.5)  # of uniform guessing, which no early step of this run beats
    with pytest.raises(Diverged, match=r"at step 50 the mean loss of 50 steps is \d"):
        tiny.run(tmp_path, steps=100, optimizer=OptimizerSpec(lr=1e-9))
    assert find_state(tmp_path).step == 45


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    """The loss of a step says nothing about the weights after it."""

    def poisoned(*args):
        step, backend = original(*args)

        def run(state, rows, scalars, loops):
            loss = step(state, rows, scalars, loops)
            next(iter(state.params.values())).view(-1)[0] = math.inf
            return loss

        return run, backend

    original = trainer.choose_step
    monkeypatch.setattr(trainer, "choose_step", poisoned)
    with pytest.raises(Diverged, match="is not finite"):
        tiny.run(tmp_path, steps=4)
    assert kept_steps(tmp_path) == [0]
    assert find_state(tmp_path).step == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
@pytest.mark.parametrize(
    "which", ["resume/step_00000040.safetensors", "checkpoints/step_00000040.safetensors"]
)
def test_a_damaged_file_is_named(done, which, damage):
    path = done / which
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[-100] ^= 1
    else:
        content = bytearray()
    path.write_bytes(content)
    read = (
        partial(tiny.run, done, steps=60) if "resume" in which else partial(load_weights, path, tiny.model())
    )
    said = {"truncated": "is cut off", "flipped": "is damaged", "empty": "is empty"}[damage]
    with pytest.raises(InputError, match=rf"{path.name} {said}"):
        read()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resume/state.json", "{"),
        ("resume/state.json", '{"step": "many"}'),
        ("manifest.json", "[]"),
        ("metrics.jsonl", "no metrics\n"),
        ("metrics.jsonl", '{"step": 3}\n'),
    ],
)
def test_a_damaged_text_file_is_named(done, name, text):
    (done / name).write_text(text)
    with pytest.raises(InputError, match=name.split("/")[-1]):
        tiny.run(done, steps=60)


def test_missing_files_are_named(done):
    (done / "resume/step_00000040.safetensors").unlink()
    with pytest.raises(InputError, match=r"no resume state at .*step_00000040"):
        tiny.run(done, steps=60)
    shutil.rmtree(done / "resume")
    with pytest.raises(InputError, match="checkpoints up to step 40 but no resume state"):
        tiny.run(done, steps=60)
    assert kept_steps(done)
    with pytest.raises(InputError, match="no metrics"):
        read_metrics(done / "nowhere")


def test_a_checkpoint_of_another_model_is_refused(done):
    with pytest.raises(InputError, match="another model"):
        load_weights(weights_path(done, 40), tiny.model("gpt2"))


def test_half_a_line_does_not_count(done):
    before = read_metrics(done)
    with (done / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 41, "seco')
    assert read_metrics(done).equals(before)
    tiny.run(done, steps=45)
    assert read_metrics(done)["step"].to_list() == [*before["step"].to_list(), 45]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (keeper, "save_weights"),
        (checkpoint, "write_tensors"),
        (checkpoint, "write_json"),
        (metrics.os, "fsync"),
    ],
)
def test_a_full_disk_loses_nothing(done, tmp_path, monkeypatch, module, name):
    with monkeypatch.context() as patch:
        patch.setattr(module, name, full_disk)
        with pytest.raises(InputError, match=r"No space left on device.* make room and run the same command"):
            tiny.run(done, steps=60)
    assert find_state(done).step in (40, 45)
    assert not list(done.rglob(".*"))
    tiny.run(done, steps=60)
    tiny.run(tmp_path / "straight", steps=60)
    differing = [
        step
        for step in kept_steps(tmp_path / "straight")
        if weights_path(done, step).read_bytes() != weights_path(tmp_path / "straight", step).read_bytes()
    ]
    assert not differing


def test_a_really_full_disk_is_an_os_error(tmp_path):
    """The library behind safetensors has errors of its own; a limit on file size stands in for the disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            tensors.write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_metrics_are_what_they_were_when_a_line_fails(tmp_path, monkeypatch):
    log = MetricsFile(tmp_path)
    row = {"step": 0, "seconds": 0.0, "loss": 1.0, "lr": 0.1, "accuracy": {}}
    log.append(row)
    before = log.path.read_bytes()
    monkeypatch.setattr(metrics.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        log.append({**row, "step": 1})
    assert log.path.read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("torch", "1.0"), ("backend", "compiled"), ("cpu", "DEFAULT"), ("kernels", "another")],
)
def test_what_bits_depend_on_must_be_the_same(done, field, value):
    tree = json.loads((done / "manifest.json").read_text())
    (done / "manifest.json").write_text(json.dumps({**tree, field: value}))
    with pytest.raises(InputError, match=re.escape(f"{field} was '{value}' and is now '{tree[field]}'")):
        tiny.run(done, steps=60)


def test_threads_are_those_the_run_started_with(done):
    tree = json.loads((done / "manifest.json").read_text())
    (done / "manifest.json").write_text(json.dumps({**tree, "threads": 2, "python": "2.7"}))
    end = tiny.run(done, steps=41)
    assert end.manifest.threads == 2
    assert read_manifest(done).threads == 2
    assert torch.get_num_threads() == 1


def test_without_a_compiler_it_says_so_once_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(step_module, "compiler", lambda: None)
    said: list[str] = []
    wanted = tiny.spec(compile="auto", steps=4)
    end = train(
        Member(tiny.model(), tiny.data(), {}, wanted, tiny.SEEDS, tmp_path), threads=1, say=said.append
    )
    assert end.manifest.backend == "eager"
    assert [line.split(":")[0] for line in said if "compile" in line] == [
        "torch.compile does not work here (there is no C++ compiler)"
    ]
    with pytest.raises(InputError, match=r"training\.compile = 'on'"):
        tiny.run(tmp_path / "on", compile="on")
    # What was begun without a compiler goes on without, and what was begun with one waits for it.
    monkeypatch.undo()
    assert tiny.run(tmp_path, compile="auto", steps=8).manifest.backend == "eager"
    tree = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**tree, "backend": "compiled"}))
    monkeypatch.setattr(step_module, "compiler", lambda: None)
    with pytest.raises(InputError, match="backend was 'compiled' and is now 'eager'"):
        tiny.run(tmp_path, compile="auto", steps=12)


def test_a_compiler_that_fails_is_no_compiler(tmp_path, monkeypatch):
    def broken(*args):
        def run(*args):
            raise RuntimeError("CppCompileError: C++ compile error\nmany lines")

        return run

    monkeypatch.setattr(step_module, "compiled_step", broken)
    monkeypatch.setattr(step_module, "compiler", lambda: "g++")
    assert tiny.run(tmp_path, compile="auto", steps=2).manifest.backend == "eager"


def test_settings_that_cannot_be_honoured(tmp_path):
    with pytest.raises(InputError, match=r"training\.dtype = 'bfloat16'.*'float32'"):
        train(Member(tiny.model(), tiny.data(), {}, tiny.spec(dtype="bfloat16"), tiny.SEEDS, tmp_path))
    with pytest.raises(InputError, match=r"training\.batch = 100000"):
        tiny.run(tmp_path, batch=100_000)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU"):
            tiny.run(tmp_path, device="cuda")
    assert not kept_steps(tmp_path)


@pytest.fixture
def interruptible():
    """A shell starts what it leaves in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_handlers_are_given_back_and_a_second_signal_acts_as_before(interruptible):
    before = signal.getsignal(signal.SIGINT)
    with watch_signals() as watch:
        signal.raise_signal(signal.SIGINT)
        assert watch.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    names = []

    def elsewhere():
        with watch_signals() as watch:
            names.append(watch.name)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert names == [""]


def test_a_signal_at_a_checkpoint_finishes_it(tmp_path):
    class Stopper(tiny.Recorder):
        def at_checkpoint(self, step, model):
            super().at_checkpoint(step, model)
            if step == 8:
                signal.raise_signal(signal.SIGTERM)

    observers = [Stopper(tmp_path / "seen")]
    with pytest.raises(Interrupted, match="SIGTERM: stopped and saved at step 8 of 40") as caught:
        train(
            Member(tiny.model(), tiny.data(), {}, tiny.spec(), tiny.SEEDS, tmp_path, observers),
            say=lambda _: None,
        )
    assert caught.value.step == 8
    assert kept_steps(tmp_path) == [0, 4, 8]


def test_too_few_examples_is_an_input_error(tmp_path):
    few = TrainingData(tiny.data().tokens_NS[:5], tiny.data().labels_NS[:5])
    with pytest.raises(InputError, match="number of examples, 5"):
        train(Member(tiny.model(), few, {}, tiny.spec(), tiny.SEEDS, tmp_path))
