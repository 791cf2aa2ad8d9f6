"""docs/hooks.md runs as it stands, on a trained run; and nnsight sees the passes of a recursive model."""

import os
import re
import runpy
from pathlib import Path

import pytest
import torch

from grokscope.models.build import build_model
from grokscope.models.spec import RecursiveSpec
from grokscope.runs.execute import run_study
from grokscope.runs.files import load_study
from grokscope.world.format import FormatSpec

PAGE = Path(__file__).parents[1] / "docs" / "hooks.md"
WITHOUT = "nnsight is not installed: pip install 'grokscope[interp]'"
STUDY = """
regimes: [natural]
world: {entities: 12, relations: 8, degree: 5, ood_fraction: 0.15}
corpus: {phi: 2, iid_fraction: 0.1}
format: {attention: causal, output: answer}
model: {kind: looped, width: 16, heads: 2, layers: 2, loops: 3}
training:
  {steps: 20, batch: 16, warmup: 2, loss: softmax, dtype: float32, compile: "off", first_checkpoint: 20}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which runs/demo is a finished study."""
    here = tmp_path_factory.mktemp("trained")
    (here / "demo.yaml").write_text(STUDY)
    run_study(load_study(str(here / "demo.yaml")), here / "runs" / "demo", 1, 1)
    return here


def run_page(directory: Path, text: str) -> dict[str, object]:
    """Run the Python of a page as one file, in a directory, and return its names."""
    file = directory / f"page{len(text)}.py"  # a real file: nnsight reads the source of its blocks
    file.write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)))
    before = Path.cwd()
    os.chdir(directory)
    try:
        return runpy.run_path(str(file))
    finally:
        os.chdir(before)


def test_forward_hooks(trained: Path) -> None:
    names = run_page(trained, PAGE.read_text().split("## nnsight")[0])
    assert len(names["states"]) == 6


def test_nnsight_reads_and_patches_a_trained_run(trained: Path) -> None:
    pytest.importorskip("nnsight", reason=WITHOUT)
    names = run_page(trained, PAGE.read_text())
    patched, plain = names["patched_BSV"], names["logits_BSV"]
    assert torch.equal(patched[:, 0], plain[:, 0])  # causal: what stands before r1 cannot change


def test_nnsight_sees_every_pass_of_a_recursive_model() -> None:
    nnsight = pytest.importorskip("nnsight", reason=WITHOUT)
    spec = RecursiveSpec(width=16, h_cycles=2, l_cycles=2, prefix=2)
    model = build_model(spec, 11, 5, FormatSpec(), seed=0, dtype="float32").eval()
    tokens_BS = torch.arange(10).view(2, 5)
    opened = nnsight.NNsight(model)
    with opened.trace(tokens_BS) as tracer:
        found = list().save()  # noqa: C408
        for _ in tracer.iter[: len(model.stages) - 1]:
            found.append(opened.level.output)
    carry = model.start(tokens_BS)
    for stage, state_BTD in zip(model.stages[1:], found, strict=True):
        carry = model.step(carry, stage.index)
        assert torch.equal(model.read(carry, stage.index), state_BTD)
