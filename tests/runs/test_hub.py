"""A run goes to a hub and comes back, and what others read of it is theirs to read without grokscope."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

import grokscope
from grokscope.errors import InputError
from grokscope.models.build import build_model
from grokscope.models.published.gpt2 import write_gpt2
from grokscope.models.published.importing import import_checkpoint
from grokscope.models.spec import LoopedSpec
from grokscope.runs import hub
from grokscope.runs.open import Run
from grokscope.world import FormatSpec
from tests.runs.tiny import tiny_study, trained

GPT2 = {
    "kind": "looped", "width": 16, "heads": 2, "layers": 1, "loops": 1, "norm": "layernorm",
    "norm_position": "pre",
    "positions": "learned", "injection": False, "bias": True,
}  # fmt: skip


class LocalHub:
    """What grokscope asks of `huggingface_hub.HfApi`, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert private
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert commit_message
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id: str, *, revision: str | None) -> str:
        """As the Hub's cache has it: files are links to blobs."""
        there = self.folder / f"snapshot-{revision}"
        shutil.copytree(
            self.folder / repo_id, there, copy_function=lambda source, to: Path(to).symlink_to(source)
        )
        return str(there)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    study = tiny_study(regimes=["natural"], causal={"enabled": True, "probes": 6}, model=GPT2)
    return Run.open(trained(study, tmp_path_factory.mktemp("study"))[0])


@pytest.fixture(scope="module")
def pushed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> LocalHub:
    api = LocalHub(tmp_path_factory.mktemp("hub"))
    assert hub.push_to_hub(run, "me/two-hops", api=api) == "https://huggingface.co/me/two-hops"
    return api


def tokens(run: Run) -> torch.Tensor:
    return torch.arange(12).view(4, 3) % run.model().vocab


def test_a_run_comes_back_as_it_went(run: Run, pushed: LocalHub) -> None:
    back = hub.from_pretrained("me/two-hops", "main", api=pushed)
    assert back.spec == run.spec
    assert back.verdict == run.verdict
    assert back.metrics.equals(run.metrics)
    assert back.corpus.fingerprint == run.corpus.fingerprint
    with torch.no_grad():
        assert torch.equal(back.model()(tokens(run)), run.model()(tokens(run)))
    assert grokscope.from_pretrained(str(run.directory)).spec == run.spec


def test_nothing_of_this_machine_is_pushed(run: Run, pushed: LocalHub) -> None:
    there = pushed.folder / "me" / "two-hops"
    assert not {"resume", "lock", "worker.log", "progress.json"} & {path.name for path in there.iterdir()}
    for path in [there / "spec.json", there / "README.md", there / "croissant.json"]:
        assert str(run.directory.parent) not in path.read_text()


def test_what_others_read(run: Run, pushed: LocalHub) -> None:
    """The weights in plain safetensors and in plain transformers; tables as the metadata say."""
    there = pushed.folder / "me" / "two-hops"
    weights = load_file(there / "model" / "model.safetensors")
    assert weights.keys() == run.model().state_dict().keys()
    card = (there / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: grokscope\n")
    assert run.verdict is not None
    assert run.verdict.verdict in card
    tree = json.loads((there / "croissant.json").read_text())
    tables = {one["@id"]: there / one["contentUrl"] for one in tree["distribution"]}
    for one in tree["distribution"]:
        assert hashlib.sha256(tables[one["@id"]].read_bytes()).hexdigest() == one["sha256"]
    for record in tree["recordSet"]:
        columns = [one["source"]["extract"]["column"] for one in record["field"]]
        assert (
            pl.read_parquet_schema(tables[record["field"][0]["source"]["fileObject"]["@id"]]).names()
            == columns
        )
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(there / "model" / "transformers").eval()
    with torch.no_grad():
        logits = run.model()(tokens(run))
        torch.testing.assert_close(theirs(tokens(run)).logits, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [{}, {"tied_head": False}, {"activation": "relu", "expansion": 2.5}])
def test_gpt2_goes_to_transformers_and_back(tmp_path: Path, change: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    spec = LoopedSpec.parse({**GPT2, "layers": 2, **change})
    fmt = FormatSpec(attention="causal", output="answer")
    model, tokens_BS = build_model(spec, 17, 6, fmt, 3, "float32").eval(), torch.arange(12).view(2, 6)
    write_gpt2(model, tmp_path / "hf")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    back = import_checkpoint(tmp_path / "hf").model
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens_BS).logits, model(tokens_BS), atol=1e-5, rtol=1e-5)
        assert torch.equal(back(tokens_BS), model(tokens_BS))
    theirs.save_pretrained(tmp_path / "again")
    again = import_checkpoint(tmp_path / "again").model
    with torch.no_grad():
        assert torch.equal(again(tokens_BS), model(tokens_BS))


@pytest.mark.parametrize("change", [{"loops": 2}, {"norm": "rms"}, {"positions": "none"}, {"bias": False}])
def test_what_transformers_does_not_know_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    fmt = FormatSpec(attention="causal", output="answer")
    model = build_model(LoopedSpec.parse({**GPT2, **change}), 17, 6, fmt, 3, "float32")
    with pytest.raises(InputError, match="transformers' GPT-2 holds"):
        write_gpt2(model, tmp_path / "hf")
