"""Prompts instead of a world: a table of them is enough to read a language model, and to patch it.

    prompts = read_prompts(Path("prompts.csv"), tokenizer)     # or token ids, without a tokenizer
    model = LoopedCalls(theirs, positions=prompts.tokens_PS.shape[1])
    lens(model, prompts)                   # where answer and latents are decoded
    probe(model, prompts, "bridge")        # where a linear map reads one
    interchange(model, prompts)            # where the corrupted prompt's state brings its answer
    path(model, prompts, "bridge")         # both, to be drawn

A row is a prompt, a corrupted prompt, the answer, and what may be found on the way:

    prompt,corrupted,answer,bridge
    "The mother of the author of Emma is"," The mother of the author of Faust is"," Cassandra"," Jane"

A column `expected` says what the answer is if the corrupted prompt's latent alone stood in the prompt;
without it, that is what the model says to the corrupted prompt. Every other column is a latent.

Shapes: P prompts, S tokens, A right answers, L stages, T positions (prefix first), C variables.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError, quoted, shortened
from grokscope.files import read_text
from grokscope.mechanics.judge.paths import USED
from grokscope.mechanics.judge.sketch import Sketch
from grokscope.mechanics.judge.verdict import INPUT
from grokscope.mechanics.patch.engine import Source
from grokscope.mechanics.patch.groups import tokens_alone
from grokscope.mechanics.patch.maps import DEFAULT_BUDGET, PatchMap
from grokscope.mechanics.read.folds import all_states
from grokscope.mechanics.read.lens import ANSWER, read_stages
from grokscope.mechanics.read.probe import fitted
from grokscope.mechanics.read.rates import halves
from grokscope.mechanics.unrolled import STATE, answers
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.statistics.clustered import FEWEST_PROBES, rate_map

PROMPT, CORRUPTED, EXPECTED = "prompt", "corrupted", "expected"
NEEDED = (PROMPT, CORRUPTED, ANSWER)
WHAT = "table of prompts"
NONE = -1
"""Fills up rows with fewer right answers than others."""
Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts as token ids; the answer is what comes after the last token."""

    tokens_PS: Ids
    corrupted_PS: Ids
    answers_PA: Ids
    """Any of them is right; the first is the one whose margin is told. Filled up with `NONE`."""
    latents: Mapping[str, Ids]
    """By name, (P,) the token of what may be found on the way."""
    expected_P: Ids | None = None
    """What is right if the corrupted prompt's latent alone stood in the prompt."""

    def __len__(self) -> int:
        return len(self.tokens_PS)

    def is_right(self, said_P: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of (.., P) tokens answer their prompts."""
        found: NDArray[np.bool_] = (np.asarray(said_P)[..., None] == self.answers_PA).any(-1)
        return found

    @property
    def fact_PK(self) -> Ids:
        """(P, 2) which rows share their prompt, or their corrupted one: intervals cluster by both."""
        both = (self.tokens_PS, self.corrupted_PS)
        return np.stack([np.unique(one, axis=0, return_inverse=True)[1].reshape(-1) for one in both], axis=1)


def read_prompts(path: Path, tokenizer: Any = None) -> Prompts:
    """Read a table: CSV or TSV with a header, or JSON lines.

    Args:
        path: the table.
        tokenizer: a function of a text, or one of transformers' or tokenizers'; nothing is added to a text
            at its start or end. None: the table holds token ids, as lists (JSON) or apart by blanks.

    Raises:
        InputError: it cannot be read, lacks a column, a cell is no token, or prompts differ in length.
    """
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"the {WHAT} at {path} holds no prompts.")
    names = list(rows[0][1])
    if missing := [name for name in NEEDED if name not in names]:
        raise InputError(
            f"the {WHAT} at {path} lacks {', '.join(missing)}: must have {', '.join(NEEDED)}; "
            f"{EXPECTED} and latents may follow."
        )
    texts: dict[str, list[Sequence[int]]] = {PROMPT: [], CORRUPTED: []}
    answers_P: list[list[int]] = []
    single: dict[str, list[int]] = {name: [] for name in names if name not in NEEDED}
    for place, row in rows:
        if list(row) != names:
            raise InputError(f"{place}: it must have the columns of the first, {quoted(', '.join(names))}.")
        for name, column in texts.items():
            column.append(_ids(row[name], tokenizer, f"{place}, {name}"))
            if len(column[-1]) != len(texts[PROMPT][0]):
                raise InputError(
                    f"{place}: {name} has {len(column[-1])} tokens and the first prompt "
                    f"{len(texts[PROMPT][0])}: states are exchanged position by position, so all must be "
                    "of one length."
                )
        several = row[ANSWER] if isinstance(row[ANSWER], list) and row[ANSWER] else [row[ANSWER]]
        answers_P.append([_token(one, tokenizer, f"{place}, {ANSWER}") for one in several])
        for name, tokens in single.items():
            tokens.append(_token(row[name], tokenizer, f"{place}, {name}"))
    most = max(map(len, answers_P))
    latents = {name: np.array(tokens, dtype=np.int64) for name, tokens in single.items()}
    return Prompts(
        np.array(texts[PROMPT], dtype=np.int64),
        np.array(texts[CORRUPTED], dtype=np.int64),
        np.array([one + [NONE] * (most - len(one)) for one in answers_P], dtype=np.int64),
        {name: token_P for name, token_P in latents.items() if name != EXPECTED},
        latents.get(EXPECTED),
    )


def lens(model: Reasoner, prompts: Prompts, batch: int = 256) -> xr.Dataset:
    """What the model's own output head reads of every state.

    Returns:
        `rank` and `logp` (prompt, variable, stage, position) of the answer (its first) and the latents, as
        `mechanics.read.lens` has them; `argmax` (prompt, stage, position); `right` (prompt), whether the last
        stage answers the prompt.

    Raises:
        InputError: a token lies outside the model's vocabulary, or prompts are too long.
    """
    _check(model, prompts)
    targets = {**prompts.latents, ANSWER: prompts.answers_PA[:, 0]}
    rank, logp, argmax = read_stages(
        model, prompts.tokens_PS, np.stack(list(targets.values()), axis=1), batch
    )
    cells = ("prompt", "variable", "stage", "position")
    return xr.Dataset(
        {
            "rank": (cells, rank),
            "logp": (cells, logp),
            "argmax": (("prompt", "stage", "position"), argmax),
            "right": ("prompt", prompts.is_right(argmax[:, -1, -1])),
        },
        coords={"variable": list(targets), **_places(model, prompts)},
    )


def probe(model: Reasoner, prompts: Prompts, latent: str, seed: int = 0, batch: int = 256) -> xr.Dataset:
    """Whether a linear map reads a latent: ridge regression, fitted on one half of the prompts and scored on
    the other, both ways; rows with one prompt are in one half.

    Args:
        latent: a column of the table, or "answer". seed: draws the control task, in which the latent is
            shuffled over prompts.

    Returns:
        Over (stage, position): `rate` with `low` and `high`, and `control`; NaN where fewer than
        `FEWEST_PROBES` prompts can be scored. Scalar `n`: those whose latent the other half has.

    Raises:
        InputError: there is no such latent, or the prompts cannot be halved.
    """
    _check(model, prompts)
    known = {**prompts.latents, ANSWER: prompts.answers_PA[:, 0]}
    if latent not in known:
        raise InputError(f"latent = {quoted(latent)}: allowed are {', '.join(map(quoted, known))}.")
    token_P, which_P = known[latent], prompts.fact_PK[:, 0]
    half_P = halves(which_P)
    if len(np.unique(half_P)) < 2:
        raise InputError(f"{len(np.unique(which_P))} different prompts cannot be halved: more are needed.")
    first_W = np.unique(which_P, return_index=True)[1]
    shuffled_P = generator("probe", seed).permutation(token_P[first_W])[which_P]
    covered_P = np.zeros(len(prompts), dtype=bool)
    for half in (0, 1):
        covered_P |= (half_P == half) & np.isin(token_P, token_P[half_P != half])
    states = all_states(model, prompts.tokens_PS, batch)
    hit_LTP, control_LTP = (
        np.zeros((len(states), states[0].shape[1], len(prompts)), dtype=bool) for _ in range(2)
    )
    for stage, state_PTD in enumerate(states):
        for half in (0, 1):
            here_P = half_P == half
            said_2PT = fitted(state_PTD, np.stack([token_P, shuffled_P]), ~here_P)
            hit_LTP[stage][:, here_P] = (token_P == said_2PT[0].T)[:, here_P]
            control_LTP[stage][:, here_P] = (shuffled_P == said_2PT[1].T)[:, here_P]
    rate_3LT = rate_map(hit_LTP[..., covered_P], prompts.fact_PK[covered_P])
    cells, enough = ("stage", "position"), int(covered_P.sum()) >= FEWEST_PROBES
    control_LT = control_LTP[..., covered_P].mean(-1) if enough else np.full(rate_3LT.shape[1:], np.nan)
    return xr.Dataset(
        {
            **{name: (cells, one) for name, one in zip(("rate", "low", "high"), rate_3LT, strict=True)},
            "control": (cells, control_LT),
            "n": int(covered_P.sum()),
        },
        coords=_places(model, prompts),
    )


def interchange(
    model: Reasoner, prompts: Prompts, site: str = STATE, budget: int = DEFAULT_BUDGET
) -> xr.Dataset:
    """What the model says when the state of one cell is that of the corrupted prompt.

    Args:
        site: all that lives on of a stage's state, or a site inside every pass, such as "mlp".
        budget: bytes of states and activations.

    Returns:
        `said` and `margin` (stage, position, prompt): the token, and the answer's logit less the highest
        other; `clean_said`, `clean_margin`, `own` (what the corrupted prompt is answered), `expected`, and
        `usable` (prompt): the prompt is answered right, and what is expected is no right answer of it. Over
        (stage, position) and usable prompts: `rate`, `low`, `high` of saying what is expected, and `own_rate`
        of the corrupted prompt's own answer; NaN below `FEWEST_PROBES` of them. Scalar `n`: how many.

    Raises:
        InputError: there is no such site, a token lies outside the vocabulary, or the budget is too small.
    """
    _check(model, prompts)
    answer, watch_P = prompts.tokens_PS.shape[1] - 1, prompts.answers_PA[:, 0]
    own_P, _ = answers(model, prompts.corrupted_PS, answer, watch_P)
    expected_P = own_P if prompts.expected_P is None else prompts.expected_P
    there_PM = np.ones((len(prompts), 1), dtype=bool)
    sources = {CORRUPTED: Source(prompts.corrupted_PS[:, None], there_PM)}
    columns = tokens_alone(model, answer + 1)
    maps = PatchMap(model, prompts.tokens_PS, answer, watch_P, sources, columns, (site,), budget).fill()
    said_LSP = maps.said[site][0]
    usable_P = prompts.is_right(maps.clean_said_P) & ~prompts.is_right(expected_P)
    facts_PK = prompts.fact_PK[usable_P]
    rate_3LS = rate_map((said_LSP == expected_P)[..., usable_P], facts_PK)
    own_3LS = rate_map((said_LSP == own_P)[..., usable_P], facts_PK)
    cells, each = ("stage", "position"), ("prompt",)
    places = _places(model, prompts)
    places["position"] = places["position"][model.prefix :]
    return xr.Dataset(
        {
            "said": ((*cells, *each), said_LSP),
            "margin": ((*cells, *each), maps.margin[site][0]),
            "clean_said": (each, maps.clean_said_P),
            "clean_margin": (each, maps.clean_margin_P),
            "own": (each, own_P),
            "expected": (each, expected_P),
            "usable": (each, usable_P),
            **{name: (cells, one) for name, one in zip(("rate", "low", "high"), rate_3LS, strict=True)},
            "own_rate": (cells, own_3LS[0]),
            "n": int(usable_P.sum()),
        },
        coords=places,
    )


def path(model: Reasoner, prompts: Prompts, latent: str, title: str = "prompts") -> Sketch:
    """Where a latent and the answer are decoded, and where what is decoded is used, for
    `grokscope.report.grid.path_grid`.

    A cell is used if the corrupted prompt's state there brings what is expected in at least `USED` of the
    usable prompts. With a column `expected` it holds the latent; where the corrupted prompt's own answer
    comes along instead, it holds the answer. Without one the two cannot be told by what follows, and what the
    lens decodes there most decides.

    Raises:
        InputError: there is no such latent, or as `lens` and `interchange`.
    """
    if latent not in prompts.latents:
        allowed = ", ".join(map(quoted, prompts.latents)) or "none, the table has no column of one"
        raise InputError(f"latent = {quoted(latent)}: allowed are {allowed}.")
    read, maps = lens(model, prompts), interchange(model, prompts)
    read = read.isel(position=slice(model.prefix, None))
    decoded = {
        "bridge": (read["rank"].sel(variable=latent) == 0).mean("prompt").values,
        "answer": prompts.is_right(read["argmax"].transpose("stage", "position", "prompt").values).mean(-1),
        INPUT: (read["argmax"].values == prompts.tokens_PS[:, None]).mean(0),
    }
    moved_LS, own_LS = (np.nan_to_num(maps[name].values) >= USED for name in ("rate", "own_rate"))
    if prompts.expected_P is None:
        answer_LS = decoded["answer"] > decoded["bridge"]
        held = {"bridge": moved_LS & ~answer_LS, "answer": moved_LS & answer_LS}
        note = "Latent and answer are told apart by the lens: a column expected would tell them by use."
    else:
        held, note = {"bridge": moved_LS, "answer": own_LS & ~moved_LS}, ""
    used, n = int(held["bridge"].sum()), int(maps["n"])
    if n < FEWEST_PROBES:
        note = f"{n} prompts can be tested, {FEWEST_PROBES} are needed: what is used cannot be told."
    right = float(read["right"].mean())
    return Sketch(
        title=title,
        subtitle=f"{len(prompts)} prompts, {right:.0%} answered right; interchange on {n}",
        stages=tuple(stage.name for stage in model.stages),
        roles=tuple(str(position) for position in maps["position"].values),
        answer_column=maps.sizes["position"] - 1,
        decoded=decoded,
        held=held,
        note=note or f"{used} cells hold {latent} and are used.",
        inputs=(),
        tokens=(),
        answer="",
    )


def _places(model: Reasoner, prompts: Prompts) -> dict[str, Any]:
    return {
        "stage": [stage.name for stage in model.stages],
        "position": np.arange(-model.prefix, prompts.tokens_PS.shape[1]),
    }


def _check(model: Reasoner, prompts: Prompts) -> None:
    """Refuse what would be read wrongly."""
    size = prompts.tokens_PS.shape[1]
    if size > model.positions:
        raise InputError(f"prompts of {size} tokens: the model has {model.positions} positions.")
    every = [prompts.tokens_PS, prompts.corrupted_PS, prompts.answers_PA, *prompts.latents.values()]
    every += [] if prompts.expected_P is None else [prompts.expected_P]
    if (highest := max(int(one.max()) for one in every)) >= model.vocab:
        raise InputError(
            f"token id {highest}: the model has {model.vocab:,} token ids, 0 to {model.vocab - 1}."
        )


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row with its place in the file."""
    text = read_text(path, WHAT)
    if text.lstrip()[:1] in ("{", "["):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield f"{path}, line {number}", _object(line, f"{path}, line {number}")
        return
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first else ",", strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) != len(names):
            raise InputError(f"the {WHAT} at {path} has a column twice: {quoted(', '.join(names))}.")
        for record in reader:
            place = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in record):
                continue
            if len(record) != len(names):
                raise InputError(f"{place}: {len(record)} columns instead of {len(names)}.")
            yield place, dict(zip(names, record, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not CSV: {shortened(str(error))}.") from None


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InputError(f"{place}: {quoted(line.strip())} is no JSON object.")
    return row


def _ids(cell: Any, tokenizer: Any, place: str) -> list[int]:
    """The token ids of a cell.

    Raises:
        InputError: it holds no text, or no ids.
    """
    if tokenizer is not None:
        if not isinstance(cell, str):
            raise InputError(f"{place} = {quoted(cell)}: must be a text.")
        return _tokenized(tokenizer, cell)
    found = cell.split() if isinstance(cell, str) else cell if isinstance(cell, list) else [cell]
    ids = [_id(one) for one in found]
    if not ids or None in ids:
        raise InputError(f"{place} = {quoted(cell)}: must be token ids, or give a tokenizer.")
    return [one for one in ids if one is not None]


def _id(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    return value if type(value) is int and 0 <= value < 10**9 else None


def _token(cell: Any, tokenizer: Any, place: str) -> int:
    """The one token of a cell."""
    ids = _ids(cell, tokenizer, place)
    if len(ids) != 1:
        raise InputError(f"{place} = {quoted(cell)}: must be one token, it is {len(ids)}.")
    return ids[0]


def _tokenized(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text alone, by a tokenizer of any kind."""
    encode: Callable[..., Any] | None = getattr(tokenizer, "encode", None)
    out = tokenizer(text) if encode is None else encode(text, add_special_tokens=False)
    return [int(one) for one in getattr(out, "ids", out)]
