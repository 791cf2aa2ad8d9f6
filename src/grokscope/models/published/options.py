"""The shape of a published checkpoint, in the config keys of its own codebase."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from grokscope.errors import InputError, quoted, shortened

MOST = 1_000_000
"""Largest count that is believed; more is a damaged config, and would fill the memory."""


@dataclass(frozen=True)
class ShapeOptions:
    """Whatever the tensors and the config do not say. None: not given here."""

    hidden_size: int | None = None
    """TRM: model width."""
    num_heads: int | None = None
    """TRM: attention heads (attention variant)."""
    expansion: float | None = None
    """TRM: SwiGLU expansion."""
    H_cycles: Annotated[int | None, tyro.conf.arg(aliases=("--h-cycles",))] = None
    """TRM: outer cycles."""
    L_cycles: Annotated[int | None, tyro.conf.arg(aliases=("--l-cycles",))] = None
    """TRM: thinking passes per outer cycle."""
    L_layers: Annotated[int | None, tyro.conf.arg(aliases=("--l-layers",))] = None
    """TRM: blocks of the level."""
    mlp_t: bool | None = None
    """TRM: token-mixing MLP instead of attention."""
    pos_encodings: str | None = None
    """TRM: rope, learned or none."""
    puzzle_emb_len: int | None = None
    """TRM: prefix positions; 0: as many as its embedding fills."""
    puzzle_emb_ndim: int | None = None
    """TRM: numbers in the prefix embedding; the slots beyond it are zeros."""
    puzzle: int | None = None
    """TRM: which row of the prefix embedding, of a checkpoint with one per puzzle; from 0."""
    evaluations: int | None = None
    """TRM: forward calls, each going on from the states of the one before, as published evaluations make
    halt_max_steps of them; None: 1."""
    seq_len: int | None = None
    """TRM: input positions, without the prefix."""
    vocab_size: int | None = None
    """Token ids."""
    n_layer: int | None = None
    """GPT-2: blocks."""
    n_head: int | None = None
    """GPT-2: attention heads."""
    n_embd: int | None = None
    """GPT-2: model width."""
    n_positions: int | None = None
    """GPT-2: most input positions."""
    n_inner: int | None = None
    """GPT-2: inner width of the MLP."""
    activation_function: str | None = None
    """GPT-2: gelu_new (the tanh form) or relu."""
    loops: int | None = None
    """GPT-2: times the blocks run; None: as the config says, in which add_recurrence is twice."""
    reembed_temperature: float | None = None
    """GPT-2: temperature of the re-embedding between loops; None: as the config says, else off."""

    def tree(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Keys:
    """Config keys from several places, which must not contradict each other; every key must be asked for.

    Args:
        sources: (name of the place, its keys), for example ("the options", {"num_heads": 4}).

    Raises:
        InputError: two places give one key different values.
    """

    def __init__(self, *sources: tuple[str, Mapping[str, Any]]) -> None:
        self.given: dict[str, Any] = {}
        self.configured = any(tree for place, tree in sources if place != "the options")
        """Whether anything but the options speaks."""
        self._missing: dict[str, str] = {}
        self._asked: set[str] = set()
        where: dict[str, str] = {}
        for place, tree in sources:
            for key, value in tree.items():
                if self.given.get(key) is None:  # null in a config: not given
                    self.given[key], where[key] = value, place
                elif value is not None and self.given[key] != value:
                    raise InputError(
                        f"{shortened(key)} = {quoted(value, 20)} in {place}, but "
                        f"{quoted(self.given[key], 20)} in {where[key]}: they must agree."
                    )

    def integer(self, key: str, least: int = 1) -> int | None:
        """The whole number under `key`, at least `least`; None: not given.

        Raises:
            InputError: it is something else.
        """
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
            raise InputError(f"{key} = {quoted(value)}: must be a whole number from {least} to {MOST}.")
        return value

    def number(self, key: str) -> float | None:
        """The positive number under `key`; None: not given.

        Raises:
            InputError: it is something else.
        """
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise InputError(f"{key} = {quoted(value)}: must be a number above 0.")
        return float(value)

    def flag(self, key: str) -> bool | None:
        """True or false under `key`; None: not given.

        Raises:
            InputError: it is something else.
        """
        value = self._take(key)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{key} = {quoted(value)}: must be true or false.")
        return value

    def text(self, key: str) -> str | None:
        """The text under `key`; None: not given.

        Raises:
            InputError: it is something else.
        """
        value = self._take(key)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{key} = {quoted(value)}: must be a text.")
        return value

    def word(self, key: str, meanings: Mapping[str, str]) -> str | None:
        """What the word under `key` means; None: not given.

        Raises:
            InputError: it is none of the words of `meanings`.
        """
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, str) or value not in meanings:
            raise InputError(f"{key} = {quoted(value)}: what can be represented is {', '.join(meanings)}.")
        return meanings[value]

    def must_be(self, key: str, *allowed: Any) -> None:
        """Insist that `key`, where it is given, has one of the values our models have built in.

        Raises:
            InputError: it has another.
        """
        value = self._take(key)
        if value is not None and value not in allowed:
            words = " or ".join(repr(one) for one in allowed)
            raise InputError(f"{key} = {quoted(value)}: only {words} can be represented.")

    def missing(self, key: str, why: str) -> None:
        """Note that the value of a key is not known, and what it is that the tensors do not tell."""
        self._missing[key] = why

    def complete(self) -> None:
        """Insist that nothing is missing.

        Raises:
            InputError: something is; all of it is named.
        """
        if not self._missing:
            return
        if len(self._missing) == 1:
            ((key, why),) = self._missing.items()
            raise InputError(
                f"{key} is missing: the tensors do not tell {why}, so give it as an option or in the config."
            )
        raise InputError(
            f"{', '.join(self._missing)} are missing: the tensors do not tell them, so give them as options "
            "or in the config."
        )

    def needed(self, key: str, why: str) -> int:
        """The whole number under `key`; 1, and it is noted as missing, if it is not given."""
        value = self.integer(key)
        if value is None:
            self.missing(key, why)
        return value or 1

    def agree(self, key: str, said: int | None, found: int, source: str) -> int:
        """`found` in the tensors, which must be what was `said`, if anything was.

        Raises:
            InputError: they differ.
        """
        if said is not None and said != found:
            raise InputError(f"{key} = {said}: contradicts {source}, by which it is {found}.")
        return found

    def finish(self, harmless: frozenset[str]) -> None:
        """Refuse every key that was neither asked for nor is known not to change what the model computes.

        Raises:
            InputError: there is such a key.
        """
        for key in sorted(set(self.given) - self._asked - harmless):
            raise InputError(
                f"{shortened(key, 40)} = {quoted(self.given[key], 40)}: this config key is not known, so it "
                "is not honoured."
            )

    def _take(self, key: str) -> Any:
        self._asked.add(key)
        return self.given.get(key)
