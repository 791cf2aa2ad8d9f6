"""A program (`wiring.py`) as the weights of a looped or a recursive model.

Every model turns the coordinates of the program by one random rotation, so that no coordinate of a state
means anything by itself (RMS norm commutes with rotations). Heads find their one position through learned
position codes with scores so large that softmax is exact to float32. GELU and SiLU are sharpened by scale
until they are ReLUs.

Shape suffixes: M hidden units, D width, K head width, V vocabulary, T positions.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import nn

from grokscope.mechanics.zoo.registers import VOTE
from grokscope.mechanics.zoo.wiring import FloatArray, Wiring
from grokscope.models.blocks import Mlp
from grokscope.models.build import build_model
from grokscope.models.looped import LoopedModel
from grokscope.models.protocol import Reasoner
from grokscope.models.recursive import POSITION_SCALE, RecursiveModel
from grokscope.models.spec import LoopedSpec, ModelSpec, RecursiveSpec
from grokscope.world.format import FormatSpec
from grokscope.world.vocabulary import Vocabulary

Body = Literal["free", "pre", "post", "trm", "registers"]
"""Norm-free ReLU; pre-norm RMS and GELU; post-norm RMS and GELU (all looped); TRM with attention, one state
and one cycle; TRM with attention, two states, two cycles and a prefix, for the programs of `registers.py`."""
BODIES: tuple[Body, ...] = ("free", "pre", "post", "trm")
"""Those that one and the same program runs in."""

ATTEND = 100.0
"""Score of the attended position over the others, for position codes of amplitude 1 (they are larger with
norms)."""
SHARP = 8.0
"""Scale before GELU and SiLU, undone after it: at pre-activations of a few units they are ReLUs to 1e-6."""
ACTIVE = 4.0
"""Coordinates of amplitude 1 in a typical state; sets how much a norm's scaling is undone on the way out."""
FRESH = 3.0
"""The same in a state fresh from the embedding (const, token, position), where pre-norm heads first read."""
UNSURE = 0.02
"""Logit of "</a>" in units of "const": what a model says where nothing was resolved, so that no rounding
error answers."""
SURE = 0.08
"""The same in votes, in the body with registers: half of what is left of an answer in the end."""
SHARPER = 512.0
"""`SHARP` where what is said is small against "const"."""
PLACE = 2.0
"""Votes of a position code there, so that heads find it and conditions on it hold in every pass."""
CYCLES = 2
"""Outer cycles of that body."""
INNER_UNIT = 256
"""The TRM rounds its inner width up to a multiple of this."""


def write_model(
    wiring: Wiring, vocabulary: Vocabulary, fmt: FormatSpec, body: Body, loops: int, seed: int
) -> Reasoner:
    """The model that runs `wiring`.

    Args:
        wiring: the program.
        vocabulary: token ids of the entities and relations.
        fmt: says whether attention is causal.
        body: the architecture; "trm" and "registers" need full attention.
        loops: times the block runs (TRM: thinking passes before a commit).
        seed: draws the rotation.
    """
    head_width = max(wiring.entities + 2, wiring.positions)
    chunks = [chunk for index in range(len(wiring.copies)) for chunk in _chunks(wiring, index, head_width)]
    heads = max(len(chunks), -(-wiring.coordinates // head_width))
    width = heads * head_width
    inner = sum(units.count for units in wiring.units)
    spec = _spec(body, width, heads, inner, loops, wiring.prefix)
    model = build_model(spec, vocabulary.size, wiring.positions - wiring.prefix, fmt, seed, "float32")
    rotation_DD = _rotation(width, seed)
    normed = math.sqrt(width if wiring.prefix else width / ACTIVE)
    sharp = SHARPER if wiring.prefix else SHARP
    copy_gain = math.sqrt(FRESH / width) if body == "pre" else 1.0
    unit_gain = {"free": 1.0, "post": 1 / sharp}.get(body, 1 / (sharp * normed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        _write_embedding(model, wiring, vocabulary, rotation_DD)
        block = model.get_submodule("level.blocks.0" if isinstance(model, RecursiveModel) else "blocks.0")
        _write_heads(block.get_submodule("attention"), wiring, chunks, heads, copy_gain, rotation_DD)
        _write_units(
            block.get_submodule("mlp"), wiring, 1 if body == "free" else sharp, unit_gain, rotation_DD
        )
    return model.eval().requires_grad_(False)


def _spec(body: Body, width: int, heads: int, inner: int, loops: int, prefix: int) -> ModelSpec:
    if body in ("trm", "registers"):
        inner = -(-inner // INNER_UNIT) * INNER_UNIT
        return RecursiveSpec(
            width=width,
            heads=heads,
            layers=1,
            h_cycles=1 if body == "trm" else CYCLES,
            l_cycles=loops,
            expansion=1.5 * inner / width,
            mixer=False,
            positions="learned",
            prefix=prefix,
        )
    return LoopedSpec(
        width=width,
        heads=heads,
        layers=1,
        loops=loops,
        expansion=inner / width,
        activation="relu" if body == "free" else "gelu",
        norm_position={"free": "none", "pre": "pre", "post": "post"}[body],
        positions="learned",
        injection=False,
        tied_head=False,
    )


def _rotation(width: int, seed: int) -> FloatArray:
    """A random orthogonal matrix (D, D), uniform (Mezzadri 2007: QR of a normal matrix, signs fixed)."""
    normal_DD = np.random.default_rng([seed, width]).standard_normal((width, width))
    q_DD, r_DD = torch.linalg.qr(torch.from_numpy(normal_DD))
    turned: FloatArray = (q_DD * r_DD.diagonal().sign()).numpy()
    return turned


def _chunks(wiring: Wiring, index: int, head_width: int) -> list[tuple[int, list[int], list[int]]]:
    """One copy as heads of at most K values: (copy, coordinates read, coordinates written)."""
    copy = wiring.copies[index]
    read, written = (
        [wiring.where(name) + i for name in names for i in range(wiring.size[name])]
        for names in (copy.reads, copy.writes)
    )
    return [
        (index, read[i : i + head_width], written[i : i + head_width])
        for i in range(0, len(read), head_width)
    ]


def _write_embedding(
    model: Reasoner, wiring: Wiring, vocabulary: Vocabulary, rotation_DD: FloatArray
) -> None:
    """Token, position and output tables. All three ones of a token have the same amplitude after the
    embedding."""
    width = len(rotation_DD)
    const_D, pad_D = (rotation_DD[wiring.where(name)] for name in ("const", "pad"))
    token_VD = np.tile(const_D, (vocabulary.size, 1))
    for ids, name in ((vocabulary.entity_ids, "entity"), (vocabulary.relation_ids, "relation")):
        token_VD[ids] += rotation_DD[wiring.where(name) + np.arange(len(ids))]
    token_VD[0] += pad_D
    position_TD = rotation_DD[wiring.where("position") + np.arange(wiring.positions)]
    head_VD = np.zeros_like(token_VD)
    for name in wiring.read_out:
        head_VD[vocabulary.entity_ids] += rotation_DD[wiring.where(name) + np.arange(wiring.entities)]
    head_VD[vocabulary.end_id] = UNSURE * const_D
    if isinstance(model, RecursiveModel) and wiring.prefix:
        # "const" stands in the states from the start and fills them; nothing else is said louder than votes.
        for state_D in (model.h_init, model.l_init):
            _set(state_D, math.sqrt(width) * const_D)
        token_VD, position_TD = (
            amplitude * VOTE / POSITION_SCALE * x
            for amplitude, x in ((1.0, token_VD - const_D), (PLACE, position_TD))
        )
        head_VD[vocabulary.entity_ids] /= VOTE
        head_VD[vocabulary.end_id] = SURE * const_D
    elif isinstance(model, RecursiveModel):
        token_VD, position_TD = (x / (POSITION_SCALE * math.sqrt(ACTIVE)) for x in (token_VD, position_TD))
        model.h_init.zero_()
        model.l_init.zero_()
    elif isinstance(model, LoopedModel) and model.spec.norm_position == "post":
        # The token embedding is normed to two coordinates of sqrt(D / 2); the position is added after that.
        position_TD = position_TD * math.sqrt(width / 2)
    for name, table in (
        ("token_embedding", token_VD),
        ("position_embedding", position_TD),
        ("head.weight", head_VD),
    ):
        _set(model.get_parameter(name), table)


def _write_heads(
    attention: nn.Module,
    wiring: Wiring,
    chunks: list[tuple[int, list[int], list[int]]],
    heads: int,
    gain: float,
    rotation_DD: FloatArray,
) -> None:
    width = len(rotation_DD)
    size = width // heads
    qkv_3HKD, out_DHK = np.zeros((3, heads, size, width)), np.zeros((width, heads, size))
    place_TD = rotation_DD[wiring.where("position") + np.arange(wiring.positions)]
    for head, (index, read, written) in enumerate(chunks):
        copy = wiring.copies[index]
        for position in range(wiring.positions):
            source = copy.source.get(position, position)
            qkv_3HKD[0, head, source] += ATTEND * math.sqrt(size) * place_TD[position]
            qkv_3HKD[1, head, position] = place_TD[position]
        turned = rotation_DD[read] if copy.basis is None else copy.basis @ rotation_DD[read]
        qkv_3HKD[2, head, : len(read)] = turned
        out_DHK[:, head, : len(read)] = gain * rotation_DD[written].T
    _set(attention.get_parameter("qkv.weight"), qkv_3HKD.reshape(3 * width, width))
    _set(attention.get_parameter("out.weight"), out_DHK.reshape(width, width))


def _write_units(mlp: nn.Module, wiring: Wiring, sharp: float, gain: float, rotation_DD: FloatArray) -> None:
    reads_MD, writes_MD = wiring.matrices(rotation_DD)
    if isinstance(mlp, Mlp):
        _set(mlp.get_parameter("up.weight"), sharp * reads_MD)
        _set(mlp.get_parameter("down.weight"), gain * writes_MD.T)
        return
    units, inner = len(reads_MD), mlp.get_parameter("down.weight").shape[1]
    gate_up_2MD, down_DM = np.zeros((2, inner, len(rotation_DD))), np.zeros((len(rotation_DD), inner))
    gate_up_2MD[0, :units] = sharp * reads_MD
    gate_up_2MD[1, :units] = rotation_DD[wiring.where("const")]
    down_DM[:, :units] = gain * writes_MD.T
    _set(mlp.get_parameter("gate_up.weight"), gate_up_2MD.reshape(2 * inner, -1))
    _set(mlp.get_parameter("down.weight"), down_DM)


def _set(parameter: torch.Tensor, value: FloatArray) -> None:
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
