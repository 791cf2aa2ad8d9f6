"""A kind of model that grokscope does not know: two classes here, and one line where kinds are listed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.patch.interchange import Setting, interchange
from grokscope.models.blocks import Linear
from grokscope.models.directory import load_model, save_model
from grokscope.models.init import Init
from grokscope.models.protocol import Group, Reasoner
from grokscope.models.spec import KINDS, ModelSpec
from grokscope.models.stages import looped_stages
from grokscope.models.taps import Tap, tapped
from grokscope.runs.devices import DEVICES
from grokscope.runs.estimate import count_work, estimate_device
from grokscope.runs.open import Run
from grokscope.runs.spec import StudySpec
from grokscope.seeds import Seeds
from grokscope.world.format import FormatSpec
from grokscope.world.graph import build_world
from tests.runs.tiny import tiny_study, trained


class GruSpec(ModelSpec):
    """A gated recurrent unit at every position, which sees the mean of what stands before it."""

    MODEL: ClassVar[str] = f"{__name__}:GruModel"
    kind: Literal["gru"] = "gru"
    width: int = Field(16, ge=1)
    loops: int = Field(3, ge=1)
    inference_loops: int | None = Field(None, ge=1)


class GruCarry(NamedTuple):
    state_BTD: Tensor
    embedding_BTD: Tensor


class GruModel(Reasoner):
    spec: GruSpec
    groups: ClassVar[Mapping[str, Group]] = {"table": "embedding", "gates": "blocks", "candidate": "blocks"}

    def __init__(
        self, spec: GruSpec, vocab: int, positions: int, fmt: FormatSpec, seed: int, dtype: torch.dtype
    ) -> None:
        loops = spec.inference_loops or spec.loops
        super().__init__(
            vocab=vocab,
            positions=positions,
            prefix=0,
            loops=spec.loops,
            inference_loops=loops,
            stages=looped_stages(loops, 1),
            dtype=dtype,
        )
        self.spec, width = spec, spec.width
        init = Init.seeded("fan_in", seed)
        self.table = init.table(vocab, width)
        self.gates = Linear(init.matrix(2 * width, 2 * width), bias=True)
        self.candidate = Linear(init.matrix(width, 2 * width), bias=True)

    def start(self, tokens_BS: Tensor) -> GruCarry:
        embedding_BTD = self.spec.width**0.5 * F.embedding(tokens_BS, self.table).to(self.dtype)
        return GruCarry(embedding_BTD, embedding_BTD)

    def step(self, carry: GruCarry, stage: int, tap: Tap | None = None) -> GruCarry:
        self._check_step(stage)
        return self._pass(carry, tap)

    def sites(self, stage: int) -> tuple[str, ...]:
        return ("state", "candidate") if stage else ("state",)

    def stays(self, stage: int, site: str) -> bool:
        return site == "candidate"

    def read(self, carry: GruCarry, stage: int) -> Tensor:
        return carry.state_BTD

    def write(self, carry: GruCarry, stage: int, state_BTD: Tensor) -> GruCarry:
        return carry._replace(state_BTD=state_BTD)

    def unembed(self, state_BTD: Tensor) -> Tensor:
        return F.linear(state_BTD, self.table.to(self.dtype)).float()

    def hidden(self, tokens_BS: Tensor, loops: int | None = None) -> Tensor:
        carry = self.start(tokens_BS)
        for _ in range(self.loops if loops is None else loops):
            carry = self._pass(carry)
        return carry.state_BTD

    def _pass(self, carry: GruCarry, tap: Tap | None = None) -> GruCarry:
        state, count = carry.state_BTD, carry.state_BTD.shape[1]
        before = torch.ones(count, count, dtype=self.dtype, device=state.device).tril()
        seen = before / before.sum(1, keepdim=True) @ state + carry.embedding_BTD
        update, reset = torch.sigmoid(self.gates(torch.cat([state, seen], -1))).chunk(2, -1)
        new = torch.tanh(self.candidate(torch.cat([reset * state, seen], -1)))
        return carry._replace(state_BTD=state + update * (tapped(tap, "candidate", new) - state))


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    KINDS.append(GruSpec)
    yield
    KINDS.remove(GruSpec)


@pytest.fixture(scope="module")
def study(registered: None) -> StudySpec:
    tree = tiny_study(
        regimes=["natural"], training={"steps": 150, "optimizer": {"kind": "muon", "lr": 0.02}}
    ).tree()
    return StudySpec.parse({**tree, "model": {"kind": "gru", "width": 32}, "causal": {"probes": 12}})


@pytest.fixture(scope="module")
def run(study: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.open(trained(study, tmp_path_factory.mktemp("gru"))[0])


def test_it_is_trained_traced_and_judged(run: Run) -> None:
    assert run.spec.model == GruSpec(width=32)
    loss = run.metrics["loss"]
    assert loss[-1] < 0.7 * loss[0]
    assert run.traces["stage"].values.tolist() == ["embed", "loop0.layer0", "loop1.layer0", "loop2.layer0"]
    first = (run.traces["rank"].sel(step=150, variable="answer", position=2) == 0).mean("probe").values
    assert first[-1] > 2 * first[0]
    assert run.verdict is not None
    assert {one.step for one in run.verdict.sets} == {150}


@pytest.mark.parametrize("site", ["state", "candidate"])
def test_it_is_patched_at_its_own_sites(run: Run, site: str) -> None:
    corpus = run.corpus
    setting = Setting(corpus.world, corpus.composition, run.spec.format)
    maps = interchange(run.model(), corpus.probes["train_inferred"], setting, site=site)
    changed = (maps["margin"] != maps["clean_margin"]).any(["arm", "probe"])
    at_answer = changed.isel(position=2).values.tolist()
    assert at_answer == [site == "state", True, True, True]
    with pytest.raises(InputError, match="candidate"):
        interchange(run.model(), corpus.probes["train_inferred"], setting, site="block0.mlp")


def test_it_is_planned(study: StudySpec) -> None:
    """Its FLOPs are counted: three passes of a mean (2 T^2 D, of which the weights have no gradient) and of
    two maps (2 T 2D 3D), and the logits."""
    work, size, width = count_work(study), 3, 32
    mean, maps = 2 * size * size * width, 12 * size * width * width
    vocab = build_world(study.world, Seeds()).vocabulary.size
    newton_schulz = 5 * sum(4 * r * r * c + 2 * r**3 for r, c in ((64, 64), (32, 64)))
    assert work.runs[0].step_flop == 32 * (3 * (2 * mean + 3 * maps) + 6 * width * vocab) + newton_schulz
    assert estimate_device(study, work, DEVICES["H100"], 0.4).flop > 150 * work.runs[0].step_flop


def test_it_is_kept_and_found_again(run: Run, tmp_path: Path) -> None:
    model = run.model()
    save_model(tmp_path / "kept", model, run.spec.format)
    tokens_BS = torch.arange(6).view(2, 3)
    assert torch.equal(load_model(tmp_path / "kept")(tokens_BS), model(tokens_BS))


def test_a_kind_that_is_not_listed_is_refused() -> None:
    tree = tiny_study().tree()
    with pytest.raises(InputError, match=r"'lstm' .* expected tags: 'looped', 'recursive', 'gru'"):
        StudySpec.parse({**tree, "model": {"kind": "lstm"}})
    with pytest.raises(InputError, match="model: unable to extract tag using discriminator 'kind'"):
        StudySpec.parse({**tree, "model": {"width": 16}})
    with pytest.raises(InputError, match=r"unknown field 'model\.heads'"):
        StudySpec.parse({**tree, "model": {"kind": "gru", "heads": 2}})
