"""Recurrent GPT-2 from Hugging Face GPT-2 weights: names and config keys, as a `LoopedModel`.

Names may lack the leading `transformer.`. A `Conv1D` holds its weight as (inputs, outputs), the transpose of
ours; the buffers `attn.bias` and `attn.masked_bias` are the causal mask, which our model has built in.

The predecessor's own config keys are honoured: `add_recurrence` (two loops), `re_embed`, `re_embed_temp`;
those for other variants of it (`no_ln`, `no_mlp`, `share_mlp`, `add_memory`) are refused where they are set.

Shapes: B batch, T positions, D width.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from grokscope.errors import InputError
from grokscope.files import vacant, whole, write_json
from grokscope.models.looped import Block, LoopedModel
from grokscope.models.protocol import Reasoner
from grokscope.models.published.options import Keys
from grokscope.models.published.tensors import dims, fill, floats, layer_count, size, strip
from grokscope.models.spec import LoopedSpec
from grokscope.world.format import FormatSpec

FORMAT = FormatSpec(attention="causal", output="sequence")
LEAD = r"(?:_orig_mod\.|module\.|model\.)*(?:transformer\.)?"
MASK = re.compile(r"h\.\d+\.attn\.(?:bias|masked_bias)")
CONV1D = re.compile(r"h\.\d+\.(?:attn|mlp)\.c_\w+\.weight")
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "relu": "relu"}
PARTS = {
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
IGNORED = """
architectures attn_pdrop embd_pdrop resid_pdrop initializer_range use_cache bos_token_id eos_token_id
pad_token_id sep_token_id decoder_start_token_id cls_token_id torch_dtype dtype transformers_version
_name_or_path _attn_implementation _attn_implementation_autoset name_or_path task_specific_params
gradient_checkpointing output_past output_attentions output_hidden_states return_dict
return_dict_in_generate output_scores id2label label2id problem_type num_labels _num_labels finetuning_task
tokenizer_class prefix reorder_and_upcast_attn summary_activation summary_first_dropout
summary_proj_to_labels summary_type summary_use_proj is_decoder torchscript use_bfloat16 tf_legacy_loss
max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k
top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
bad_words_ids num_return_sequences forced_bos_token_id forced_eos_token_id remove_invalid_values
exponential_decay_length_penalty suppress_tokens begin_suppress_tokens chunk_size_feed_forward memory_dim
"""
"""Config keys of training, of tokens, and of how a model is run or stored: none changes its logits."""


def is_gpt2(names: list[str]) -> bool:
    """Whether tensor names are those of a Hugging Face GPT-2."""
    return any(name.endswith("h.0.attn.c_attn.weight") for name in names)


def read_gpt2(tensors: dict[str, Tensor], keys: Keys) -> LoopedModel:
    """The published model, its blocks run `loops` times, in float32.

    Raises:
        InputError: tensors or keys that contradict each other, are missing, or cannot be represented.
    """
    bare = strip(tensors, LEAD, "h.0.attn.c_attn.weight")
    bare = floats({name: tensor for name, tensor in bare.items() if not MASK.fullmatch(name)})
    vocab, width = dims(bare, "wte.weight")
    positions, _ = dims(bare, "wpe.weight")
    keys.agree("vocab_size", keys.integer("vocab_size"), vocab, "wte.weight")
    keys.agree("n_embd", keys.integer("n_embd"), width, "wte.weight")
    keys.agree("n_positions", keys.integer("n_positions"), positions, "wpe.weight")
    keys.agree("n_ctx", keys.integer("n_ctx"), positions, "wpe.weight")
    layers = layer_count(bare, r"h\.(\d+)\.")
    keys.agree("n_layer", keys.integer("n_layer"), layers, "the names of the tensors")
    inner = dims(bare, "h.0.mlp.c_fc.weight")[1]
    keys.agree("n_inner", keys.integer("n_inner"), inner, "h.0.mlp.c_fc.weight")
    _check_layout(bare, width)
    heads, loops = keys.needed("n_head", "the attention heads"), _loops(keys)
    keys.complete()
    spec = LoopedSpec.parse(
        {
            "width": width,
            "heads": heads,
            "layers": layers,
            "loops": loops,
            "expansion": inner / width,
            "activation": keys.word("activation_function", ACTIVATIONS) or "gelu",
            "norm": "layernorm",
            "norm_position": "pre",
            "positions": "learned",
            "injection": False,
            "tied_head": _tied(bare, keys),
            "bias": True,
            "reembed_temperature": _temperature(keys),
            "init": "gpt2",
        },
        "the checkpoint's shape",
    )
    _refuse_variants(keys)
    model = LoopedModel(spec, vocab, positions, causal=True, seed=0, dtype=torch.float32)
    kept = {name: t for name, t in bare.items() if name != "lm_head.weight" or not spec.tied_head}
    fill(model, kept, _names(spec), CONV1D)
    return model


def described(model: LoopedModel) -> str:
    """The model's size and passes."""
    spec = model.spec
    again = "" if spec.reembed_temperature is None else f", re-embedding at {spec.reembed_temperature}"
    times = "once" if spec.loops == 1 else f"{spec.loops} times"
    return f"GPT-2, {size(model, spec.width)}, {spec.layers} layers run {times}{again}"


def is_exportable(model: Reasoner) -> bool:
    """Whether transformers' GPT-2 can hold the model: its blocks run once, and are GPT-2's."""
    if not isinstance(model, LoopedModel) or model.inference_loops != 1:
        return False
    spec, block = model.spec, model.blocks[0]
    return (
        isinstance(block, Block)
        and block.attention.causal
        and (spec.norm, spec.norm_position, spec.positions) == ("layernorm", "pre", "learned")
        and spec.bias
        and spec.activation in ("gelu", "relu")
    )


def write_gpt2(model: Reasoner, directory: Path) -> None:
    """Write a directory that transformers reads: `GPT2LMHeadModel.from_pretrained(directory)`.

    Raises:
        InputError: transformers' GPT-2 is another model, or the directory holds something.
    """
    if not is_exportable(model) or not isinstance(model, LoopedModel):
        raise InputError(
            f"{type(model).__name__}: transformers' GPT-2 holds a looped model with loops 1, norm layernorm "
            "before each sublayer, learned positions, bias and causal attention."
        )
    spec, ours = model.spec, model.state_dict()
    named = {theirs: ours[name] for theirs, name in _names(spec).items()}
    tensors = {
        name if name == "lm_head.weight" else f"transformer.{name}": (
            tensor.T if CONV1D.fullmatch(name) else tensor
        ).contiguous()
        for name, tensor in named.items()
    }
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": model.vocab,
        "n_positions": model.positions,
        "n_embd": spec.width,
        "n_layer": spec.layers,
        "n_head": spec.heads,
        "n_inner": ours["blocks.0.mlp.up.weight"].shape[0],
        "activation_function": {"gelu": "gelu_new", "relu": "relu"}[spec.activation],
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": spec.tied_head,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    with whole(vacant(directory)) as draft:
        draft.mkdir()
        (draft / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
        write_json(draft / "config.json", config)


def hidden_states(model: LoopedModel, tokens_BS: Tensor) -> list[Tensor]:
    """The published list of hidden states: what enters every block, then the final, normalised state.

    Entry i is the state at stage i; except that the last one is normalised, and that what enters the first
    block of a later loop has the re-embedding added where the model has one.

    Args:
        model: a pre-norm looped model.
        tokens_BS: token ids.

    Returns:
        loops * layers + 1 tensors (B, T, D).
    """
    entering: list[Tensor] = []

    def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        entering.append(arguments[0])

    hooks = [block.register_forward_pre_hook(note) for block in model.blocks]
    try:
        state_BTD = model.hidden(tokens_BS, model.inference_loops)
    finally:
        for hook in hooks:
            hook.remove()
    final_BTD: Tensor = model.final_norm(state_BTD)
    return [*entering, final_BTD]


def _names(spec: LoopedSpec) -> dict[str, str]:
    """Published name -> ours, for every tensor of the model."""
    names = {"wte.weight": "token_embedding", "wpe.weight": "position_embedding"}
    norms = {"ln_f": "final_norm"}
    for layer in range(spec.layers):
        for theirs, ours in PARTS.items():
            if theirs.startswith("ln"):
                norms[f"h.{layer}.{theirs}"] = f"blocks.{layer}.{ours}"
                continue
            for part in ("weight", "bias"):
                names[f"h.{layer}.{theirs}.{part}"] = f"blocks.{layer}.{ours}.{part}"
    for theirs, ours in norms.items():
        names |= {f"{theirs}.weight": f"{ours}.gain", f"{theirs}.bias": f"{ours}.bias"}
    return names if spec.tied_head else {**names, "lm_head.weight": "head.weight"}


def _check_layout(tensors: dict[str, Tensor], width: int) -> None:
    """Refuse nanoGPT's checkpoints, whose names are the same.

    Raises:
        InputError: a map has the layout of `nn.Linear`.
    """
    name = "h.0.attn.c_attn.weight"
    if (shape := dims(tensors, name)) == (3 * width, width):
        raise InputError(
            f"tensor {name} has shape {shape}, the layout of nn.Linear (nanoGPT): Hugging Face's Conv1D has "
            f"{shape[::-1]}, so transpose the matrices of attn and mlp."
        )


def _tied(tensors: dict[str, Tensor], keys: Keys) -> bool:
    """Whether the head is the token embedding, as it is unless the config says not.

    Raises:
        InputError: the config says (or leaves) it tied, and the checkpoint has another head; or the reverse.
    """
    said, head = keys.flag("tie_word_embeddings"), tensors.get("lm_head.weight")
    if said is False:
        if head is None:
            raise InputError("tie_word_embeddings = False: but the checkpoint has no lm_head.weight.")
        return False
    if head is not None and not torch.equal(head, tensors["wte.weight"]):
        raise InputError(
            "tensor lm_head.weight differs from wte.weight: with an output head of its own a config must say "
            "tie_word_embeddings = false."
        )
    return True


def _loops(keys: Keys) -> int:
    """Times the blocks run: as said; else twice by `add_recurrence`, and once by a config without it."""
    loops, recurrent = keys.integer("loops"), keys.flag("add_recurrence")
    if recurrent is not None and loops and loops != 1 + recurrent:
        raise InputError(f"loops = {loops}: contradicts add_recurrence = {recurrent}.")
    if loops is None and not keys.configured:
        keys.missing("loops", "how often the blocks run")
    return loops or 1 + bool(recurrent)


def _temperature(keys: Keys) -> float | None:
    """Temperature of the re-embedding, by our key or the predecessor's two; None: there is none."""
    ours, on, theirs = keys.number("reembed_temperature"), keys.flag("re_embed"), keys.number("re_embed_temp")
    if on and theirs is None and ours is None:
        raise InputError("re_embed_temp is missing: re_embed = True needs a temperature.")
    said = ours if ours is not None else theirs
    if (on is False and ours is not None) or (None not in (ours, theirs) and ours != theirs):
        raise InputError(
            f"reembed_temperature = {ours}: contradicts re_embed = {on}, re_embed_temp = {theirs}."
        )
    return said if on or ours is not None else None


def _refuse_variants(keys: Keys) -> None:
    """Refuse what would make other logits.

    Raises:
        InputError: the config asks for it, or has a key that is not known.
    """
    keys.must_be("model_type", "gpt2")
    keys.must_be("layer_norm_epsilon", 1e-5)
    keys.must_be("scale_attn_weights", True)
    for key in (
        "scale_attn_by_inverse_layer_idx",
        "add_cross_attention",
        "is_encoder_decoder",
        "tie_encoder_decoder",
        "no_ln",
        "no_mlp",
        "share_mlp",
        "add_memory",
    ):
        keys.must_be(key, False)
    keys.must_be("pruned_heads", {})
    keys.must_be("cross_attention_hidden_size")
    keys.finish(frozenset(IGNORED.split()))
