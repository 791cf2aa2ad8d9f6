"""The published Tiny Recursive Model: its `state_dict` names and config keys, as a `RecursiveModel`.

Names may be led by `_orig_mod.` (a compiled module) and `model.` (a loss wrapper), in any order, then
`inner.`. The prefix embedding is one row of numbers, padded with zeros and viewed as P slots of width D.

`halt_max_steps` is left aside: the model here is one forward call of the original, as the reference study
uses it, or as many in a row as `evaluations` says, which are that many times the cycles. So is
`forward_dtype`: states are float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from grokscope.errors import InputError, quoted
from grokscope.models.published.options import Keys
from grokscope.models.published.tensors import dims, fill, floats, layer_count, size, strip
from grokscope.models.recursive import RecursiveModel, swiglu_inner
from grokscope.models.spec import RecursiveSpec
from grokscope.world.format import FormatSpec

FORMAT = FormatSpec(attention="full", output="sequence")
LEAD = r"(?:_orig_mod\.|module\.|model\.)*(?:inner\.)?"
LAYER = r"L_level\.layers\.(\d+)\."
EMBEDDING, POSITIONS, PREFIX = (
    "embed_tokens.embedding_weight",
    "embed_pos.embedding_weight",
    "puzzle_emb.weights",
)
OTHERS = ("hrm", "trm_singlez", "trm_hier6", "transformers_baseline")
"""The original's other modules of models."""
PARTS = {
    "attention": {"self_attn.qkv_proj": "attention.qkv", "self_attn.o_proj": "attention.out"},
    "mixer": {"mlp_t.gate_up_proj": "mixer.gate_up", "mlp_t.down_proj": "mixer.down"},
    "mlp": {"mlp.gate_up_proj": "mlp.gate_up", "mlp.down_proj": "mlp.down"},
}
IGNORED = """
H_layers batch_size forward_dtype halt_exploration_prob halt_max_steps loss no_ACT_continue rope_theta
"""
"""Keys that change training or nothing, not what one forward call computes (rope_theta: without "rope")."""


def is_trm(names: list[str]) -> bool:
    """Whether tensor names are those of a published TRM."""
    return any("L_level.layers." in name for name in names)


def read_trm(tensors: dict[str, Tensor], keys: Keys) -> RecursiveModel:
    """The published model, in float32.

    Raises:
        InputError: tensors or keys that contradict each other, are missing, or cannot be represented.
    """
    tensors = floats(strip(tensors, LEAD, "L_level.layers."))
    vocab, width = dims(tensors, EMBEDDING)
    keys.agree("vocab_size", keys.integer("vocab_size"), vocab, EMBEDDING)
    keys.agree("hidden_size", keys.integer("hidden_size"), width, EMBEDDING)
    layers = layer_count(tensors, LAYER)
    keys.agree("L_layers", keys.integer("L_layers"), layers, "the names of the tensors")
    mixer = _mixer(tensors, keys)
    coding = _positions(tensors, keys, mixer)
    total = _total(tensors, mixer)
    prefix, positions = _lengths(tensors, keys, width, total)
    heads = keys.integer("num_heads") or 1 if mixer else keys.needed("num_heads", "the attention heads")
    h_cycles, l_cycles = keys.needed("H_cycles", "the cycles"), keys.needed("L_cycles", "the cycles")
    evaluations, row = keys.integer("evaluations") or 1, _row(tensors, keys)
    keys.complete()
    expansion = _expansion(tensors, keys, width, total if mixer else None)
    keys.must_be("rms_norm_eps", 1e-5)
    keys.must_be("causal", False)
    _check_name(keys)
    if coding == "rotary":
        keys.must_be("rope_theta", 10_000)
    keys.finish(frozenset(IGNORED.split()))
    spec = RecursiveSpec.parse(
        {
            "width": width,
            "heads": heads,
            "layers": layers,
            "h_cycles": h_cycles,
            "l_cycles": l_cycles,
            "inference_h_cycles": evaluations * h_cycles if evaluations > 1 else None,
            "expansion": expansion,
            "mixer": mixer,
            "positions": coding,
            "prefix": prefix,
        },
        "the checkpoint's shape",
    )
    model = RecursiveModel(spec, vocab, positions, seed=0, dtype=torch.float32)
    fill(model, _laid_out(tensors, prefix, width, row), _names(spec))
    return model


def described(model: RecursiveModel) -> str:
    """The model's size and passes."""
    spec, mixing = model.spec, "mixer" if model.spec.mixer else "attention"
    passes = f"{spec.h_cycles} cycles of {spec.l_cycles} thinking passes and a commit"
    if spec.inference_h_cycles is not None:
        passes += f", evaluated {spec.inference_h_cycles // spec.h_cycles} times in a row"
    blocks = f"prefix {spec.prefix}, {spec.layers} layers"
    return f"TRM ({mixing}), {size(model, spec.width)}, {blocks}, {passes}"


def _names(spec: RecursiveSpec) -> dict[str, str]:
    """Published name -> ours, for every tensor of the model."""
    names = {
        EMBEDDING: "token_embedding",
        "lm_head.weight": "head.weight",
        "q_head.weight": "halting.weight",
        "q_head.bias": "halting.bias",
        "H_init": "h_init",
        "L_init": "l_init",
    }
    if spec.prefix:
        names[PREFIX] = "prefix_embedding"
    if spec.positions == "learned":
        names[POSITIONS] = "position_embedding"
    for layer in range(spec.layers):
        for theirs, ours in (PARTS["mixer" if spec.mixer else "attention"] | PARTS["mlp"]).items():
            names[f"L_level.layers.{layer}.{theirs}.weight"] = f"level.blocks.{layer}.{ours}.weight"
    return names


def _laid_out(tensors: dict[str, Tensor], prefix: int, width: int, row: int) -> dict[str, Tensor]:
    """The tensors in our shapes: one row of the prefix, padded with zeros and cut into slots."""
    if PREFIX not in tensors or not prefix:
        return tensors
    numbers = tensors[PREFIX][row]
    slots_PD = F.pad(numbers, (0, prefix * width - len(numbers))).view(prefix, width)
    return {**tensors, PREFIX: slots_PD}


def _mixer(tensors: dict[str, Tensor], keys: Keys) -> bool:
    """Whether blocks mix positions by an MLP; what the tensors say, which the config must not deny."""
    found = any(".mlp_t." in name for name in tensors)
    said = keys.flag("mlp_t")
    if said is not None and said != found:
        raise InputError(f"mlp_t = {said}: contradicts the names of the tensors, by which it is {found}.")
    return found


def _positions(tensors: dict[str, Tensor], keys: Keys, mixer: bool) -> str:
    """Our name of the position code. The original's mixer never uses its rotary tables, and any word but
    "rope" and "learned" is no code to it."""
    said = keys.text("pos_encodings")
    learned = POSITIONS in tensors
    if said is not None and learned != (said == "learned"):
        has = "has" if learned else "does not have"
        raise InputError(f"pos_encodings = {quoted(said)}: the checkpoint {has} {POSITIONS}.")
    if learned:
        return "learned"
    if mixer:
        return "none"
    if said is None:
        keys.missing("pos_encodings", "'rope' from 'none'")
    if said == "rotary":
        raise InputError(
            "pos_encodings = 'rotary': to the original this is no position code; say rope or none."
        )
    return "rotary" if said == "rope" else "none"


def _row(tensors: dict[str, Tensor], keys: Keys) -> int:
    """Which row of the prefix embedding, of which there is one per puzzle."""
    rows, row = dims(tensors, PREFIX)[0] if PREFIX in tensors else 1, keys.integer("puzzle", 0)
    if row is None and rows > 1:
        raise InputError(
            f"tensor {PREFIX} has {rows} rows, one for each puzzle: choose one, --puzzle 0 to {rows - 1}."
        )
    if row is not None and row >= rows:
        raise InputError(f"puzzle = {row}: {PREFIX} has {rows:,} rows, so 0 to {rows - 1}.")
    return row or 0


def _check_name(keys: Keys) -> None:
    """Refuse the config of one of the original's other models; some have tensors of the same names."""
    name = keys.text("name") or ""
    module = name.partition("@")[0].rpartition(".")[2]
    if module in OTHERS:
        raise InputError(f"name = {quoted(name)}: of these models only trm can be represented.")


def _total(tensors: dict[str, Tensor], mixer: bool) -> int | None:
    """All positions T, where the tensors tell."""
    if mixer:
        return dims(tensors, "L_level.layers.0.mlp_t.gate_up_proj.weight")[1]
    return dims(tensors, POSITIONS)[0] if POSITIONS in tensors else None


def _lengths(tensors: dict[str, Tensor], keys: Keys, width: int, total: int | None) -> tuple[int, int]:
    """Prefix slots P and input positions S."""
    slots, stated = keys.integer("puzzle_emb_len", 0), keys.integer("seq_len")
    ndim, puzzles = keys.integer("puzzle_emb_ndim", 0), keys.integer("num_puzzle_identifiers")
    numbers = 0
    if PREFIX in tensors:
        rows, numbers = dims(tensors, PREFIX)
        keys.agree("num_puzzle_identifiers", puzzles, rows, PREFIX)
    keys.agree("puzzle_emb_ndim", ndim, numbers, PREFIX if numbers else f"the lack of {PREFIX}")
    filled = -(-numbers // width)
    if slots is None and total is not None and stated is not None:
        slots = total - stated
    elif slots == 0 or not numbers:
        slots = slots or filled  # 0 slots: the original takes as many as the numbers fill
    if slots is None:
        keys.missing("puzzle_emb_len", "how many slots are padded with zeros")
    prefix = filled if slots is None else slots
    if prefix < filled or (prefix and not numbers):
        raise InputError(
            f"puzzle_emb_len = {prefix}: contradicts {PREFIX} with {numbers} numbers at width {width}."
        )
    if total is None:
        return prefix, keys.needed("seq_len", "the number of input positions")
    if slots is None:
        return prefix, stated or 1
    if total <= prefix:
        raise InputError(f"puzzle_emb_len = {prefix}: the tensors have {total} positions, prefix included.")
    return prefix, keys.agree(
        "seq_len", stated, total - prefix, f"the tensors' {total} positions with prefix"
    )


def _expansion(tensors: dict[str, Tensor], keys: Keys, width: int, total: int | None) -> float:
    """An expansion that gives the inner widths found: the one stated, else the reference's, else any."""
    inner = {width: dims(tensors, "L_level.layers.0.mlp.gate_up_proj.weight")[0] // 2}
    if total is not None:
        inner.setdefault(total, dims(tensors, "L_level.layers.0.mlp_t.gate_up_proj.weight")[0] // 2)
    stated = keys.number("expansion")
    largest = min(1.5 * m / n for n, m in inner.items())
    for expansion in (4.0, largest) if stated is None else (stated,):
        if all(swiglu_inner(expansion, n) == m for n, m in inner.items()):
            return expansion
    widths = ", ".join(f"{m} on {n}" for n, m in inner.items())
    said = "no expansion gives" if stated is None else f"expansion = {stated} does not give"
    raise InputError(f"{said} the inner widths of the tensors ({widths}, in steps of 256).")
