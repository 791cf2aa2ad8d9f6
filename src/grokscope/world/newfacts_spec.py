"""What can be said of new facts for a trained model. Defaults are the reference study's values."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from grokscope.spec import Spec


class RetentionSpec(Spec):
    """Which of the data that the base was trained on stays in the fine-tuning data.

    paper: `items` random ID facts, and every composition of two of them that the base was trained on.
    code: `items` examples in all, closed under use: random ID facts one after another, each with every
    composition of ID facts in which it is a hop, until the number is reached. The other hop of such a
    composition is mostly not among the retained atoms.

    Compositions that a regime injected are left out of both, so that all regimes of one world retain the
    same.
    """

    kind: Literal["paper", "code"] = "paper"
    """How the source's paper describes it, or how its code does it."""
    items: Annotated[int, Field(ge=0)] | Literal["all"] = 8000
    """ID facts (paper) or examples in all (code) (reference: 8,000 of either); 0: none; all: all of
    them."""
    ood: bool = False
    """Retain all OOD facts as atoms too, beside `items`, so that OOD queries can be asked afterwards without
    their atoms being forgotten (reference: no)."""


class NewFactsSpec(Spec):
    """New facts on unused (entity, relation) pairs, in linked pairs a -> b -> t, and the questions about
    them."""

    count: int = Field(2000, ge=2)
    """New facts, an even number (reference: 2,000)."""
    probes: int = Field(1000, ge=1)
    """Most probes per mix (reference: 3,000 new_then_new; 16 to 36 of the other two are in its figure)."""
    k: int = Field(0, ge=0)
    """Compositions with an old ID fact that are trained per new fact, in each of its roles."""
    roles: Literal["both", "first", "second"] = "both"
    """Hops in which the k compositions use the new fact; the other hop is an old ID fact."""
    new_entities: int = Field(0, ge=0)
    """Entities that no fact of the base mentions, which become the bridges of the new pairs; the vocabulary
    must have them. 0: all are known."""
    retention: RetentionSpec = RetentionSpec()
    """What stays of the old data."""
    seed: int = 0
    """Draws facts, retention, probes and compositions, together with the base's split seed; the base's
    regime and training seeds have no part in it, so that bases of one world get the same."""

    @model_validator(mode="after")
    def _possible(self) -> "NewFactsSpec":
        if self.count % 2:
            raise ValueError(f"count {self.count} must be even: new facts come in linked pairs")
        if self.roles != "both" and self.k == 0:
            raise ValueError(
                f"roles {self.roles!r} says how k compositions use a new fact, and k is 0; set k or leave it"
            )
        if self.new_entities > self.count // 2:
            raise ValueError(
                f"new_entities {self.new_entities} must be at most the {self.count // 2} linked pairs of "
                f"count {self.count}"
            )
        return self
