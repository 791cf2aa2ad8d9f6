"""Files of others: whatever stands in them, a reader gives a value or one sentence, and nothing else.

A sentence is short, does not repeat the file, and is no error of Python's.
"""

import copy
import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import grokscope
from grokscope.errors import InputError
from grokscope.files import read_json
from grokscope.findings.cells import Predictions
from grokscope.mechanics.prompts import read_prompts
from grokscope.models.build import build_model
from grokscope.models.directory import load_model, save_model
from grokscope.models.published.importing import import_checkpoint
from grokscope.models.published.options import ShapeOptions
from grokscope.models.spec import LoopedSpec
from grokscope.runs.directory import read_progress, standing
from grokscope.runs.files import load_study
from grokscope.runs.open import Run, Transfer
from grokscope.runs.study import Study
from grokscope.seeds import Seeds
from grokscope.training.checkpoint import find_state
from grokscope.training.manifest import read_manifest
from grokscope.world import (
    CorpusSpec,
    FormatSpec,
    WorldSpec,
    build_corpus,
    build_world,
    inspect,
    write_corpus,
)
from grokscope.world.spec import REGIMES
from tests.models.published import gpt2_config, gpt2_weights, trm_config, trm_weights
from tests.runs.tiny import tiny_study, trained

LONGEST, REPEATED = 300, 80
STARTS = (b"", b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"{", b"[", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80\x02",
          b"head,relation,tail\n", b"\x08\0\0\0\0\0\0\0{}", b"\xff\xff\xff\xff\xff\xff\xff\x7f{",
          b"version https://git-lfs", b"name: x\n")  # fmt: skip

plain = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.sampled_from(
        [-1, 0, 1, 2**31, 2**63, 1e308, float("nan"), float("inf"), "", "a" * 500, "e\u0301", "../../x"]
    )
    | st.floats()
    | st.text(max_size=20)
)
value = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def changed(tree: Any, seed: int, new: Any) -> Any:
    """A valid tree with one value, wherever it stands, replaced, removed or named otherwise."""
    draw, tree = random.Random(seed), copy.deepcopy(tree)
    at, key = tree, None
    while isinstance(at, dict | list) and at:
        parent, key = at, draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
        at = parent[key]
        if draw.random() < 0.3:
            break
    if key is None:
        return new
    if draw.random() < 0.3:
        gone = parent.pop(key)
        if isinstance(parent, dict) and draw.random() < 0.5:
            parent[str(new)[:300]] = gone
    else:
        parent[key] = new
    return tree


def hostile(valid: bytes) -> st.SearchStrategy[bytes]:
    """Bytes, JSON, and what a valid file becomes when it is cut, damaged, or changed by hand."""
    texts = (
        st.text(max_size=200)
        | st.lists(st.text(max_size=12), max_size=12).map(",".join)
        | st.text("a,\n\t\"'[]{}:-|&*", max_size=60)
    )
    kinds = [
        st.builds(lambda start, rest: start + rest, st.sampled_from(STARTS), st.binary(max_size=80)),
        texts.map(str.encode),
        value.map(lambda tree: json.dumps(tree).encode()),
        st.integers(0, len(valid)).map(lambda size: valid[:size]),
        st.tuples(st.integers(0, max(0, len(valid) - 1)), st.binary(min_size=1, max_size=6)).map(
            lambda one: valid[: one[0]] + one[1] + valid[one[0] + len(one[1]) :]
        ),
    ]
    try:
        tree = json.loads(valid)
    except ValueError:
        return st.one_of(kinds)
    kinds += [
        st.builds(changed, st.just(tree), st.integers(0, 10**6), value).map(
            lambda one: json.dumps(one).encode()
        )
    ] * 3
    return st.one_of(kinds)


def is_refused_or_read(read: Callable[[], Any], data: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except InputError as error:
        said = str(error)
        assert "\n" not in said
        assert len(said) <= LONGEST, said
        text = data.decode(errors="ignore")
        for start in range(len(said) - REPEATED):
            assert said[start : start + REPEATED + 1] not in text, said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a transfer's files, a model, a world and checkpoints, all as they should be."""
    home = tmp_path_factory.mktemp("h")
    study = tiny_study(regimes=["natural"], causal={"enabled": True, "probes": 6})
    (run,) = trained(study, home / "study")
    run.rename(home / "run")
    save_model(
        home / "model",
        build_model(LoopedSpec(width=8, heads=2), 7, 3, FormatSpec(), 0, "float32"),
        FormatSpec(),
    )
    corpus = build_corpus(
        build_world(WorldSpec(entities=24, relations=12, degree=8, ood_fraction=0.1), Seeds()),
        CorpusSpec(phi=3.0, probe_cap=20), REGIMES["natural"], Seeds(),
    )  # fmt: skip
    for layout in ("grokscope", "reference"):
        write_corpus(corpus, home / layout, layout)
    (home / "study.yaml").write_text(
        "name: mine\nworld: {entities: 20, relations: 8, degree: 4}\nseeds: [0, 1]\n"
    )
    (home / "facts.csv").write_text("head,relation,tail\na,r,b\nb,r,c\nc,r,a\n")
    pl.DataFrame({"head": ["a", "b"], "relation": ["r", "r"], "tail": ["b", "a"]}).write_parquet(
        home / "facts.parquet"
    )
    said = {"study": "mine", "fitted_on": 3, "cells": {"a": {"all": {"remembers": 0.4, "not learned": 0.6}}}}
    (home / "predictions.json").write_text(json.dumps(said))
    (home / "facts.jsonl").write_text('{"head": "a", "relation": "r", "tail": "b"}\n')
    (home / "prompts.csv").write_text("prompt,corrupted,answer,bridge\n1 2 3,4 2 3,5,6\n7 2 3,8 2 3,5,6\n")
    row = {"prompt": [1, 2], "corrupted": [3, 2], "answer": [4, 5], "bridge": 6, "expected": 7}
    (home / "prompts.jsonl").write_text(json.dumps(row))
    (home / "gpt2").mkdir()
    weights = {n: t for n, t in gpt2_weights(gpt2_config()).items() if n != "lm_head.weight"}
    (home / "gpt2" / "model.safetensors").write_bytes(save(weights))
    (home / "gpt2" / "config.json").write_text(json.dumps(gpt2_config()))
    index = {"weight_map": dict.fromkeys(weights, "model.safetensors")}
    (home / "gpt2" / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.save(trm_weights(trm_config()), home / "step_1")
    (home / "trm.json").write_text(json.dumps(trm_config()))
    (home / "trm").mkdir()
    shutil.copy(home / "step_1", home / "trm")
    (home / "trm" / "all_config.yaml").write_text(yaml.safe_dump({"arch": trm_config(), "lr": 1e-4}))
    return home


READERS: dict[str, Callable[[Path], Any]] = {
    "facts.csv": lambda home: (
        build_world(WorldSpec(facts_file=str(home / "facts.csv"), ood_fraction=0), Seeds()),
        inspect(home / "facts.csv"),
    ),
    "facts.jsonl": lambda home: build_world(
        WorldSpec(facts_file=str(home / "facts.jsonl"), ood_fraction=0), Seeds()
    ),
    "facts.parquet": lambda home: build_world(
        WorldSpec(facts_file=str(home / "facts.parquet"), ood_fraction=0), Seeds()
    ),
    "prompts.csv": lambda home: read_prompts(home / "prompts.csv"),
    "prompts.jsonl": lambda home: read_prompts(home / "prompts.jsonl"),
    "predictions.json": lambda home: Predictions.parse(
        read_json(home / "predictions.json", "file of predictions"), "predictions.json"
    ),
    "study.yaml": lambda home: load_study(str(home / "study.yaml")),
    "study/study.json": lambda home: (
        Study.open(home / "study").runs,
        load_study(str(home / "study" / "study.json")),
    ),
    "run/spec.json": lambda home: (Run.open(home / "run"), grokscope.open(home / "run")),
    "run/manifest.json": lambda home: read_manifest(home / "run"),
    "run/metrics.jsonl": lambda home: Run.open(home / "run").metrics,
    "run/corpus.json": lambda home: Run.open(home / "run").corpus,
    "run/done.json": lambda home: standing(home / "run"),
    "run/diagnosis.json": lambda home: Run.open(home / "run").diagnosis,
    "run/verdict.json": lambda home: Run.open(home / "run").verdict,
    "run/progress.json": lambda home: read_progress(home / "run"),
    "run/resume/state.json": lambda home: find_state(home / "run"),
    "run/traces/step_00000008.zarr/zarr.json": lambda home: Run.open(home / "run").traces,
    "run/traces/step_00000008.zarr/rank/zarr.json": lambda home: Run.open(home / "run").traces["rank"],
    "run/traces/step_00000008.zarr/role/zarr.json": lambda home: Run.open(home / "run").traces["role"].load(),
    "run/traces/step_00000008.zarr/exact/c/0": lambda home: Run.open(home / "run").traces["exact"].load(),
    "run/causal.csv": lambda home: Run.open(home / "run").causal,
    "run/checkpoints/step_00000008.safetensors": lambda home: Run.open(home / "run").model(),
    "model/model.json": lambda home: load_model(home / "model"),
    "model/model.safetensors": lambda home: load_model(home / "model"),
    "grokscope/corpus.json": lambda home: inspect(home / "grokscope"),
    "grokscope/arrays.safetensors": lambda home: inspect(home / "grokscope"),
    "reference/train.json": lambda home: inspect(home / "reference"),
    "reference/test.json": lambda home: inspect(home / "reference"),
    "reference/vocab.json": lambda home: inspect(home / "reference"),
    "reference/id_facts.json": lambda home: inspect(home / "reference"),
    "gpt2/config.json": lambda home: import_checkpoint(home / "gpt2"),
    "gpt2/model.safetensors": lambda home: import_checkpoint(home / "gpt2"),
    "gpt2/model.safetensors.index.json": lambda home: import_checkpoint(
        home / "gpt2" / "model.safetensors.index.json"
    ),
    "step_1": lambda home: import_checkpoint(home / "step_1", home / "trm.json"),
    "trm/all_config.yaml": lambda home: import_checkpoint(home / "trm" / "step_1"),
    "trm.json": lambda home: import_checkpoint(home / "step_1", home / "trm.json", ShapeOptions()),
}


def examples() -> int:
    """A few; 10,000 with --hypothesis-profile hostile."""
    return settings().max_examples if settings.get_current_profile_name() == "hostile" else 20


@pytest.mark.parametrize("name", READERS)
def test_whatever_stands_in_a_file(place: Path, name: str) -> None:
    file = place / name
    valid = file.read_bytes()
    READERS[name](place)  # as it should be, it is read

    @settings(
        max_examples=examples(), deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(data=hostile(valid))
    def tried(data: bytes) -> None:
        file.write_bytes(data)
        is_refused_or_read(lambda: READERS[name](place), data)

    try:
        tried()
    finally:
        file.write_bytes(valid)


def test_a_long_fingerprint_is_not_repeated(place: Path) -> None:
    file = place / "run" / "corpus.json"
    valid = file.read_bytes()
    data = json.dumps({**json.loads(valid), "fingerprint": "a" * 500}).encode()
    file.write_bytes(data)
    try:
        is_refused_or_read(lambda: Run.open(place / "run").corpus, data)
    finally:
        file.write_bytes(valid)


def test_a_transfer_without_its_files_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    with pytest.raises(InputError, match=r"unknown field|field required"):
        Transfer.open(tmp_path / "run")


@pytest.mark.parametrize(
    "text", ["regimes: [NAME]", "steps_for: {NAME: 3}", "transfer: {bases: [NAME@end]}", "family: NAME"]
)
def test_a_validator_quotes_no_more_than_a_sentence(tmp_path: Path, text: str) -> None:
    data = text.replace("NAME", "a" * 500).encode()
    (tmp_path / "mine.yaml").write_bytes(data)
    is_refused_or_read(lambda: load_study(str(tmp_path / "mine.yaml")), data)
