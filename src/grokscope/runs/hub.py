"""Runs on the Hugging Face Hub: a repository that explains itself, and is a run again when it is fetched.

    push_to_hub(run, "me/two-hops")
    run = from_pretrained("me/two-hops")

A repository holds the run's directory as it is (spec, manifest, metrics, checkpoints, traces, verdict; the
facts it was trained on), and for others: `model/` (safetensors and a description; what transformers knows,
also in its layout), `world/` (facts, compositions and probes as Parquet), `croissant.json` (what these tables
hold), and a card.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from grokscope._version import __version__
from grokscope.errors import InputError
from grokscope.files import write_json, write_text
from grokscope.models.directory import save_model
from grokscope.models.published.gpt2 import is_exportable, write_gpt2
from grokscope.runs.directory import LOCK, LOG, PROGRESS
from grokscope.runs.open import Run
from grokscope.world.storage import write_corpus

OWN = ("resume", LOCK, LOG, PROGRESS, "figures")
"""Parts of a run's directory that are of this machine, or drawn again."""
MODEL, WORLD, CROISSANT, CARD = "model", "world", "croissant.json", "README.md"
TYPES = {pl.Int32: "sc:Integer", pl.Int64: "sc:Integer", pl.Boolean: "sc:Boolean", pl.String: "sc:Text"}


def push_to_hub(run: Run, repo_id: str, private: bool = True, api: Any = None) -> str:
    """Put a run into a repository of models, made if it is not there; its address.

    Args:
        run: with a checkpoint. repo_id: `owner/name`. private: of a new repository.
        api: a `huggingface_hub.HfApi`; None: one with the token of this machine.

    Raises:
        InputError: the run has no checkpoint, or huggingface_hub is not installed.
    """
    api = api or _hub().HfApi()
    with tempfile.TemporaryDirectory() as folder:
        write_repository(run, Path(folder) / "run")
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=str(Path(folder) / "run"), commit_message=f"{run.name}, grokscope"
        )
    return f"https://huggingface.co/{repo_id}"


def from_pretrained(repo_id: str, revision: str | None = None, api: Any = None) -> Run:
    """A run from a repository that `push_to_hub` made, or from a directory.

    Args:
        repo_id: `owner/name`, or a path. revision: branch, tag or commit; None: the newest.
        api: as for `push_to_hub`.

    Raises:
        InputError: it holds no run, or huggingface_hub is not installed.
    """
    if Path(repo_id).is_dir():
        return Run.open(repo_id)
    api = api or _hub().HfApi()
    return Run.open(api.snapshot_download(repo_id, revision=revision))


def write_repository(run: Run, directory: Path) -> None:
    """What `push_to_hub` puts there, as a new directory.

    Raises:
        InputError: the run has no checkpoint.
    """
    model = run.model()
    shutil.copytree(run.directory, directory, ignore=shutil.ignore_patterns(*OWN))
    save_model(directory / MODEL, model, run.spec.format)
    if is_exportable(model):
        write_gpt2(model, directory / MODEL / "transformers")
    write_corpus(run.corpus, directory / WORLD, "parquet")
    write_json(directory / CROISSANT, croissant(run, directory))
    write_text(directory / CARD, card(run))


def card(run: Run) -> str:
    """The model card: what the run was asked, and what came of it."""
    spec, summary = run.spec, run.corpus.summary()
    verdict, diagnosis = run.verdict, run.diagnosis
    said = ["not finished"] if diagnosis is None else [f"behaviour: **{diagnosis.behaviour}**"]
    if verdict is not None:
        said.append(f"mechanism: **{verdict.verdict}**. {verdict.reason}")
    accuracies = run.metrics.tail(1).to_dicts()[0]
    rows = [
        f"| {name} | {count} | {accuracies.get(f'accuracy.{name}', float('nan')):.2f} |"
        for name, count in summary["probes"].items()
    ]
    return "\n".join(
        [
            "---",
            "library_name: grokscope",
            "tags: [grokscope, mechanistic-interpretability, reasoning]",
            "---",
            "",
            f"# {run.name}",
            "",
            f"A {spec.model.tree()['kind']} model trained on a world of {summary['facts']:,} facts about "
            f"{summary['entities']:,} entities, regime {spec.regime.name}, {spec.training.steps:,} steps.",
            "",
            *[f"- {one}" for one in said],
            "",
            "| probes | n | right |",
            "|---|---|---|",
            *rows,
            "",
            "```python",
            "import grokscope",
            "",
            'run = grokscope.from_pretrained("OWNER/NAME")',
            "run.verdict, run.model(), run.corpus.probes",
            "```",
            "",
            f"`model/` holds the weights, `world/` facts and probes as Parquet ({CROISSANT}). grokscope "
            f"{__version__}, identity {spec.identity}.",
            "",
        ]
    )


def croissant(run: Run, directory: Path) -> dict[str, Any]:
    """What is in the tables of `world/`, in the vocabulary of Croissant 1.0."""
    files, records = [], []
    for path in sorted((directory / WORLD).glob("*.parquet")):
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append(
            {
                "@type": "cr:FileObject",
                "@id": path.name,
                "name": path.name,
                "contentUrl": f"{WORLD}/{path.name}",
                "encodingFormat": "application/x-parquet",
                "sha256": sha,
            }
        )
        fields = [
            {
                "@type": "cr:Field",
                "@id": f"{path.stem}/{name}",
                "name": name,
                "dataType": TYPES.get(type(kind), "sc:Text"),
                "source": {"fileObject": {"@id": path.name}, "extract": {"column": name}},
            }
            for name, kind in pl.read_parquet_schema(path).items()
        ]
        records.append({"@type": "cr:RecordSet", "@id": path.stem, "name": path.stem, "field": fields})
    return {
        "@context": {
            "@vocab": "https://schema.org/",
            "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/",
        },
        "@type": "sc:Dataset",
        "name": run.name,
        "description": "Facts, trained compositions and probes of a grokscope run.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "version": run.corpus.fingerprint,
        "distribution": files,
        "recordSet": records,
    }


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise InputError("the Hub needs huggingface_hub: pip install 'grokscope[hub]'.") from None
    return huggingface_hub
