"""The `transfer:` section of a study: which of its models are fine-tuned on new facts."""

import re
from typing import Any, NamedTuple

from pydantic import Field

from grokscope.errors import InputError
from grokscope.spec import merge
from grokscope.transfer.spec import TransferSpec

UNTRAINED = "untrained"
MOMENTS = ("end", "saturation", "generalisation")


class BaseChoice(NamedTuple):
    """A base, for every seed of a study."""

    regime: str | None
    """None: the untrained control."""
    moment: str
    """One of `MOMENTS`, "untrained", or a step as digits."""


class StudyTransfers(TransferSpec):
    """Bases, and the transfers that are made of each of them, for every seed of the study."""

    bases: tuple[str, ...] = ()
    """`REGIME@MOMENT`, the moment being end, saturation, generalisation (of test_ood), or a kept checkpoint's
    step; or `untrained`, the control. A run that never reached its moment gives no base, and that is said."""

    variants: dict[str, dict[str, Any]] = Field({})
    """By name, what is laid over `facts`, `tuning` and `examine`: every base is transferred once per variant.
    Empty: once, as the section says. Only in a file, no option."""

    @property
    def transfer(self) -> TransferSpec:
        """The settings without bases and variants."""
        return TransferSpec(facts=self.facts, tuning=self.tuning, examine=self.examine)

    def transfers(self) -> dict[str, TransferSpec]:
        """The settings of every variant, by name; without variants, those of the section, named "".

        Raises:
            InputError: a variant is not named by letters, digits and _, or lays on what cannot be honoured.
        """
        own = self.transfer
        if not self.variants:
            return {"": own}
        found = {}
        for name, over in self.variants.items():
            if not re.fullmatch(r"\w+", name, re.ASCII):
                raise InputError(f"transfer.variants = {name!r}: names are letters, digits and _.")
            found[name] = TransferSpec.parse(merge(own.tree(), over), f"transfer.variants.{name}")
        return found

    def choices(self) -> list[BaseChoice]:
        """The bases, parsed.

        Raises:
            ValueError: one is malformed or stands twice.
        """
        if len(set(self.bases)) != len(self.bases):
            raise ValueError(f"transfer.bases repeats an item: {list(self.bases)}")
        return [_parse(text) for text in self.bases]


def _parse(text: str) -> BaseChoice:
    if text == UNTRAINED:
        return BaseChoice(None, UNTRAINED)
    regime, at, moment = text.partition("@")
    if not at or not regime or not (moment in MOMENTS or moment.isdecimal()):
        raise ValueError(
            f"transfer.bases: {text!r} must be REGIME@MOMENT with the moment {', '.join(MOMENTS)} or a step, "
            f"or {UNTRAINED!r}"
        )
    return BaseChoice(regime, moment)
