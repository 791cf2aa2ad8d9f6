"""Prompts instead of a world: what is said of them is what is said of a world's queries, and of a hook."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grokscope.errors import InputError
from grokscope.mechanics import prompts as by_prompts
from grokscope.mechanics.patch.drawing import draw
from grokscope.mechanics.patch.interchange import interchange
from grokscope.mechanics.prompts import Prompts, read_prompts
from grokscope.mechanics.read.lens import lens
from grokscope.report import style
from grokscope.report.grid import path_grid
from tests.mechanics.causal_cases import wired_case
from tests.models.test_called import FAMILIES, POSITIONS, VOCAB, end_of


@pytest.fixture(scope="module")
def circuit() -> tuple[Any, Any, Prompts, Any]:
    """A wired circuit's queries as a table: the corrupted prompt is the donor, `expected` what it moves."""
    wired, some, setting = wired_case("circuit")
    drawn = draw(wired.model, some, setting, ["bridge"])
    donors = drawn.donors["bridge"]
    keep = np.flatnonzero(donors.present_PM[:, 0])
    base, other = setting.encode(some.queries), setting.encode(donors.sources(setting.world))
    bridge_P, answer_P = (setting.tokens_of(some.queries.path_NK[:, hop]) for hop in (0, 1))
    table = Prompts(
        base.tokens_NS[keep].astype(np.int64),
        other.tokens_NS[keep].astype(np.int64),
        answer_P[keep, None],
        {"bridge": bridge_P[keep]},
        setting.tokens_of(donors.expected_P)[keep],
    )
    maps = interchange(wired.model, some, setting, ["bridge"], drawn=drawn)
    trace = lens(wired.model, some, base, setting.world.vocabulary)
    return wired, table, maps.isel(probe=keep), trace.isel(probe=keep)


def test_what_is_said_of_prompts_is_what_is_said_of_a_worlds_queries(circuit: Any) -> None:
    wired, table, maps, trace = circuit
    found = by_prompts.interchange(wired.model, table)
    np.testing.assert_array_equal(found["said"].values, maps["said"].sel(arm="bridge").values)
    np.testing.assert_array_equal(found["clean_said"], maps["clean_said"])
    read = by_prompts.lens(wired.model, table)
    for name in ("bridge", "answer"):
        own, theirs = (one["rank"].sel(variable=name) for one in (read, trace))
        np.testing.assert_array_equal(
            own.transpose("prompt", ...).values, theirs.transpose("probe", ...).values
        )
    np.testing.assert_array_equal(read["right"].values, trace["exact"].values)


def test_a_path_shows_where_the_latent_is_used(circuit: Any) -> None:
    wired, table, *_ = circuit
    sketch = by_prompts.path(wired.model, table, "bridge")
    stage, position = wired.reading
    assert sketch.held["bridge"][stage, position]
    assert not sketch.held["bridge"][-1].any()  # there it is the answer
    assert sketch.held["answer"][-1, sketch.answer_column]
    with style.styled():
        path_grid([sketch]).draw_without_rendering()
    few = Prompts(
        table.tokens_PS[:9],
        table.corrupted_PS[:9],
        table.answers_PA[:9],
        {"bridge": table.latents["bridge"][:9]},
    )
    assert "prompts can be tested, 30 are needed" in by_prompts.path(wired.model, few, "bridge").note


def test_a_probe_reads_what_stands_there_and_no_control(circuit: Any) -> None:
    wired, table, *_ = circuit
    found = by_prompts.probe(wired.model, table, "bridge")
    stage, position = wired.reading
    cell = found.isel(stage=stage, position=position)
    assert float(cell["rate"]) > float(cell["control"]) + 0.2
    assert float(found["rate"].isel(stage=0, position=2)) < 0.5  # r2 does not tell the bridge


@pytest.mark.parametrize("family", FAMILIES)
def test_a_looped_language_model_is_read_and_patched_as_a_hook_does(family: str) -> None:
    torch.manual_seed(3)
    model = FAMILIES[family]()
    clean, corrupted = torch.randint(0, VOCAB, (2, 4, POSITIONS), generator=torch.Generator().manual_seed(5))
    stage = next(one for one in model.stages if one.loop == 2 and one.layer % 2)
    with torch.inference_mode():
        answer_P = model(clean)[:, -1].argmax(-1).numpy()
        table = Prompts(clean.numpy(), corrupted.numpy(), answer_P[:, None], {"first": clean[:, 0].numpy()})
        maps, read = by_prompts.interchange(model, table), by_prompts.lens(model, table)
        assert read["right"].all()
        np.testing.assert_array_equal(maps["clean_said"], answer_P)
        carries = []
        for tokens_PS in (clean, corrupted):
            carries.append(model.start(tokens_PS))
            for index in range(1, stage.index + 1):
                carries[-1] = model.step(carries[-1], index)
        live = model.live(carries[0], stage.index).clone()
        live[:, 2] = model.live(carries[1], stage.index)[:, 2]
        logits = end_of(model, model.with_live(carries[0], stage.index, live), stage.index)
    np.testing.assert_array_equal(maps["said"].values[stage.index, 2], logits[:, -1].argmax(-1).numpy())


ROWS = {"prompt": [1, 2, 3], "corrupted": [4, 2, 3], "answer": 5, "bridge": 6, "expected": 7}


def test_a_table_is_read_alike_in_every_form(tmp_path: Path) -> None:
    words = {word: number for number, word in enumerate(["a", "b", "c", "d", " e", " f", " g", " h"], 1)}

    class Characters:
        """As a tokenizer of transformers is called."""

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            assert not add_special_tokens
            return [words[text]] if text in words else [words[character] for character in text]

    header, first = "prompt,corrupted,answer,bridge,expected", "1 2 3,4 2 3,5,6,7"
    forms = {
        "ids.jsonl": (json.dumps(ROWS) + "\n", None),
        "several.jsonl": (json.dumps({**ROWS, "answer": [5, 1]}) + "\n", None),
        "ids.csv": (f"{header}\r\n{first}\r\n\r\n", None),
        "ids.tsv": (f"{header}\n{first}\n".replace(",", "\t"), None),
        "text.csv": (f"{header}\nabc,dbc, e, f, g\n", Characters()),
        "text16.csv": (f"{header}\nabc,dbc, e, f, g\n", lambda text: Characters().encode(text, False)),
    }
    for name, (text, tokenizer) in forms.items():
        (tmp_path / name).write_bytes(text.encode("utf-16" if "16" in name else "utf-8"))
        found = read_prompts(tmp_path / name, tokenizer)
        assert found.tokens_PS.tolist() == [[1, 2, 3]]
        assert found.corrupted_PS.tolist() == [[4, 2, 3]]
        assert found.answers_PA.tolist() == ([[5, 1]] if "several" in name else [[5]])
        assert {name: one.tolist() for name, one in found.latents.items()} == {"bridge": [6]}
        assert found.expected_P is not None
        assert found.expected_P.tolist() == [7]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": [1], "answer": 2}], "lacks corrupted: must have prompt, corrupted, answer"),
        ([ROWS, {**ROWS, "prompt": [1, 2]}], r"line 2: prompt has 2 tokens and the first prompt 3"),
        ([{**ROWS, "answer": [[1, 2]]}], r"line 1, answer = \[1, 2\]: must be one token, it is 2"),
        ([{**ROWS, "prompt": "the mother"}], "prompt = 'the mother': must be token ids, or give a tokenizer"),
        ([{**ROWS, "bridge": -1}], "bridge = -1: must be token ids"),
        ([ROWS, {"prompt": [1, 2, 3]}], "line 2: it must have the columns of the first"),
        ([], "is empty"),
    ],
)
def test_what_is_no_table_of_prompts_is_one_sentence(
    tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=said):
        read_prompts(tmp_path / "p.jsonl")


def test_prompts_that_do_not_fit_the_model_are_refused(circuit: Any) -> None:
    wired, table, *_ = circuit
    with pytest.raises(InputError, match="latent = 'mother': allowed are 'bridge'"):
        by_prompts.path(wired.model, table, "mother")
    ids = np.full((2, 3), wired.model.vocab)
    with pytest.raises(InputError, match=f"token id {wired.model.vocab}: the model has"):
        by_prompts.lens(wired.model, Prompts(ids, ids, ids[:, :1], {}))
    with pytest.raises(InputError, match="prompts of 9 tokens: the model has"):
        by_prompts.interchange(wired.model, Prompts(ids[:, [0] * 9] * 0, ids, ids[:, :1], {}))
