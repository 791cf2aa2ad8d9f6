"""What can be said of a model. Every field is honoured or refused, never ignored."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, SerializeAsAny, model_validator
from pydantic_core import PydanticKnownError

from grokscope.spec import Spec, later

if TYPE_CHECKING:
    from grokscope.world.format import FormatSpec

MOST_WIDTH, MOST_REPEATS, MOST_EXPANSION = 2**16, 2**12, 2**8
"""Beyond any model that is trained: a slip of the keyboard is refused before memory is asked for."""


class ModelSpec(Spec):
    """Base of the kinds of models: each a subclass with a `kind`, listed in `KINDS`."""

    MODEL: ClassVar[str]
    """What builds it, as `module:name`: a class or function that is called as `build.build_model` is. Only a
    name, so that the command line reads specs without PyTorch."""
    INFERENCE_LOOPS: ClassVar[str] = "inference_loops"
    """The field that says how often the shared part runs when evaluated."""

    def sees_order(self, fmt: "FormatSpec") -> bool:
        """Whether the model can tell which token stands where."""
        return True

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_kind(cls, tree: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        if cls is not ModelSpec or not isinstance(tree, dict):
            return handler(tree)
        if "kind" not in tree:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
        known = {kind.model_fields["kind"].default: kind for kind in KINDS}
        tag = str(tree["kind"])
        if tag not in known:
            tags = ", ".join(map(repr, known))
            found = {"discriminator": "'kind'", "tag": tag, "expected_tags": tags}
            raise PydanticKnownError("union_tag_invalid", found)
        return known[tag].model_validate(tree)


class LoopedSpec(ModelSpec):
    """One stack of blocks run `loops` times (universal, recurrent GPT-2); 1 loop is the plain transformer."""

    MODEL: ClassVar[str] = "grokscope.models.looped:build"
    kind: Literal["looped"] = "looped"
    width: int = Field(128, ge=1, le=MOST_WIDTH)
    """Model width D."""
    heads: int = Field(4, ge=1)
    """Attention heads; divides the width."""
    layers: int = Field(2, ge=1, le=MOST_REPEATS)
    """Layers in the shared stack."""
    loops: int = Field(3, ge=1, le=MOST_REPEATS)
    """Times the stack runs in training."""
    inference_loops: int | None = Field(None, ge=1, le=MOST_REPEATS)
    """Times the stack runs when evaluated; None means as in training."""
    shared: bool = True
    """False gives every loop its own weights: the control for parameter sharing at equal depth."""
    expansion: float = Field(4.0, gt=0.0, le=MOST_EXPANSION)
    """MLP inner width over D (swiglu too: its gate makes it half as large again)."""
    activation: Literal["gelu", "relu", "swiglu"] = "gelu"
    """MLP non-linearity (gelu: tanh form, as GPT-2)."""
    norm: Literal["rms", "layernorm"] = "rms"
    """RMS norm has no gain (as the TRM), LayerNorm has gain and bias (as GPT-2)."""
    norm_position: Literal["pre", "post", "none"] = "post"
    """Where the norm stands: before each sublayer, after each residual sum, or nowhere."""
    positions: Literal["learned", "rotary", "none"] = "none"
    """Position code. With full attention and none, the order of the tokens is invisible to the model."""
    injection: bool = True
    """Add the input embedding to the state before every loop but the first."""
    tied_head: bool = True
    """Use the token embedding as output head."""
    bias: bool = False
    """Biases on linear maps (GPT-2 has them)."""
    reembed_temperature: float | None = Field(None, gt=0.0)
    """Between loops: state += softmax(temperature * state @ E^T) @ E (recurrent GPT-2); None: off."""
    init: Literal["fan_in", "gpt2"] = "fan_in"
    """fan_in: normal, std 1/sqrt(inputs) for linear maps, 1/sqrt(D) for embeddings. gpt2: normal, std 0.02,
    the two maps that write to the residual stream further over sqrt(2 * layers * loops)."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ValueError(f"rotary positions need an even head width, got {self.width // self.heads}")
        if not self.shared and self.inference_loops not in (None, self.loops):
            raise ValueError("inference_loops can differ from loops only when the weights are shared")
        return self

    def sees_order(self, fmt: "FormatSpec") -> bool:
        return fmt.attention == "causal" or self.positions != "none"


class RecursiveSpec(ModelSpec):
    """Tiny Recursive Model (TRM); defaults are the reference's."""

    MODEL: ClassVar[str] = "grokscope.models.recursive:build"
    INFERENCE_LOOPS: ClassVar[str] = "inference_h_cycles"
    kind: Literal["recursive"] = "recursive"
    width: int = Field(1536, ge=1, le=MOST_WIDTH)
    """Model width D."""
    heads: int = Field(12, ge=1)
    """Attention heads (attention variant only)."""
    layers: int = Field(2, ge=1, le=MOST_REPEATS)
    """Blocks in the shared level."""
    h_cycles: int = Field(2, ge=1, le=MOST_REPEATS)
    """Outer cycles; only the last carries gradient."""
    l_cycles: int = Field(6, ge=1, le=MOST_REPEATS)
    """Thinking passes per outer cycle."""
    inference_h_cycles: int | None = Field(None, ge=1, le=MOST_REPEATS)
    """Outer cycles when evaluated; None means as in training."""
    expansion: float = Field(4.0, gt=0.0, le=MOST_EXPANSION)
    """SwiGLU expansion; inner width is round(expansion * n * 2 / 3) rounded up to a multiple of 256."""
    mixer: bool = True
    """True: token-mixing MLP over positions (mlp_t); False: attention."""
    positions: Literal["learned", "rotary", "none"] = "none"
    """Position code (rotary only with attention; attention with none cannot see the order of the tokens)."""
    prefix: int = Field(16, ge=0, le=MOST_WIDTH)
    """Learned prefix positions P."""
    tied_head: bool = later(False)
    """Whether the head is the token embedding, transposed."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.mixer and self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.mixer and self.positions == "rotary":
            raise ValueError(
                "rotary positions need attention: set mixer to false, or positions to learned or none"
            )
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ValueError(f"rotary positions need an even head width, got {self.width // self.heads}")
        return self

    def sees_order(self, fmt: "FormatSpec") -> bool:
        return self.mixer or self.positions != "none"


KINDS: list[type[ModelSpec]] = [LoopedSpec, RecursiveSpec]
"""The kinds of models there are. A further one is a spec, a model and a line here."""
AnyModel = SerializeAsAny[ModelSpec]
"""The type of a field that holds a model of any kind."""
