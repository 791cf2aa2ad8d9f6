"""The `transfer:` section of a study: which of its models are fine-tuned on new facts."""

from typing import NamedTuple

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
    """Bases, and the one transfer that is made of each of them, for every seed of the study."""

    bases: tuple[str, ...] = ()
    """`REGIME@MOMENT`, the moment being end, saturation, generalisation (of test_ood), or a kept checkpoint's
    step; or `untrained`, the control. A run that never reached its moment gives no base, and that is said."""

    @property
    def transfer(self) -> TransferSpec:
        """The settings without the bases."""
        return TransferSpec(facts=self.facts, tuning=self.tuning, examine=self.examine)

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
