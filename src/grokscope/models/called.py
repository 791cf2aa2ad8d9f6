"""Somebody else's language model that calls its layers several times, as a `Reasoner`: every call is a stage.

    theirs = HrmTextForCausalLM(config)                    # or any module: tokens (B, S) -> logits
    model = LoopedCalls(theirs, positions=12)
    [stage.name for stage in model.stages]                 # embed, loop0.layer0, .., final

Nothing is restated. The model's own forward runs; to go on from a stage, the calls before it answer with
what they answered then (they are replayed, not computed), the one that is asked for is computed, and the
forward is left. So whatever the model does between its layers (cycles, messages between loops, states that
skip ahead) is its own code. A replayed call costs nothing; what stands between the calls is run again for
every stage.

A stage is what one call of one layer returned: `loop` counts the calls of that layer before, `layer` is its
place among the layers. Stage 0 is what the token embedding returned, the last what enters the norm before the
output head, if no layer returned just that.

The sequence of calls must not depend on the input, and the model must be deterministic, row by row: caches
and early exits are off. That is tried out when the adapter is made, and looked at in every run.

Shapes: B batch, S = T positions, D width, V vocabulary, K calls, X what lives on of a position.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.errors import InputError
from grokscope.models.protocol import Reasoner
from grokscope.models.stages import Stage
from grokscope.models.taps import Tap

STATE = "state"
SITES = {"attention": ("self_attn", "attn", "attention"), "mlp": ("mlp", "feed_forward", "ffn")}
"""Sites inside a call, and what the submodules of a layer are called whose output they are."""
QUIET = 1e-6
"""Change of the logits, as a part of the largest, that counts as none."""
FEWER = "the model makes fewer calls for this input than for others, so switch early exits off"


class Calls(tuple[Tensor, ...]):
    """The carry: the state, the tokens, and what every call has answered so far, (B, T, D) each; (B, 0) where
    a call has not been made."""

    def __new__(cls, *parts: Tensor) -> "Calls":
        return super().__new__(cls, parts)


class _Left(Exception):
    """The forward is left: what was asked for is known."""


class LoopedCalls(Reasoner):
    """A model whose layers are called several times.

    Args:
        theirs: tokens (B, S) to logits, or to something with `.logits`; kept as `theirs`, in eval mode.
        positions: most input positions S.
        layers: names of the modules that are called, in any order, or of lists of them; None: the members of
            every outermost `ModuleList` that is called.
        embedding, norm, head: names of the token embedding, of the norm before the output head, and of the
            head; None: what the model says of itself, and what is seen in a run.
        options: further arguments of the forward, such as `use_cache=False` (given to a model of transformers
            anyway).

    Raises:
        InputError: a part is not found, the model is not deterministic, a row depends on the others, or the
            number of calls depends on the input.
    """

    def __init__(
        self,
        theirs: nn.Module,
        positions: int,
        layers: Sequence[str] | None = None,
        embedding: str | None = None,
        norm: str | None = None,
        head: str | None = None,
        **options: Any,
    ) -> None:
        theirs.eval()
        names = dict(theirs.named_modules())
        own = {id(module): name for name, module in names.items()}
        embedding = embedding or _said(theirs, "get_input_embeddings", own) or _first(names, nn.Embedding)
        head = head or _said(theirs, "get_output_embeddings", own)
        for what, name in (("embedding", embedding), ("head", head)):
            if name is None or name not in names:
                raise InputError(f"{what} = {name!r}: the model has no module of this name; say which it is.")
        assert embedding is not None
        assert head is not None
        vocab = int(names[embedding].weight.shape[0])
        members = _members(names, layers)
        if hasattr(theirs, "config"):
            options = {"use_cache": False, **options}
        seen = _Seen(theirs, [embedding, *members], head, options)
        tokens_BS = torch.arange(2 * positions).view(2, positions) % vocab
        tokens_BS = tokens_BS.to(next(theirs.parameters()).device)
        seen.run(tokens_BS)
        calls = seen.calls
        if calls[:1] != [embedding] or len(calls) < 2:
            raise InputError(f"layers: none of {len(members)} modules is called after {embedding}.")
        norm = norm if norm is not None else seen.norm(own)
        stages, number = [Stage(0, "embed", -1, -1, STATE)], dict.fromkeys(members, 0)
        place, several = _places(members)
        for name in calls[1:]:
            group, layer = place[name]
            label = f"{group}{layer}" if several else f"layer{layer}"
            stages.append(Stage(len(stages), f"loop{number[name]}.{label}", number[name], layer, STATE))
            number[name] += 1
        self._norm_calls = seen.count(norm) if norm is not None else 0
        own_end = not seen.ends_in_a_call
        if own_end:
            stages.append(Stage(len(stages), "final", max(number.values()) - 1, -1, STATE))
        super().__init__(
            vocab=vocab,
            positions=positions,
            prefix=0,
            loops=max(number.values()),
            inference_loops=max(number.values()),
            stages=tuple(stages),
            dtype=seen.dtype,
        )
        self.theirs, self.options, self._calls = theirs, options, calls
        self._norm, self._head, self._own_end = norm, head, own_end
        self._living: dict[int, tuple[int, ...]] = {}
        self._check(tokens_BS)

    # The protocol.

    def start(self, tokens_BS: Tensor) -> Calls:
        self._check_tokens(tokens_BS, exact=False)
        blank_B0 = tokens_BS.new_empty(len(tokens_BS), 0)
        return self._advanced(Calls(blank_B0, tokens_BS, *[blank_B0] * len(self._calls)), 0, None)

    def step(self, carry: Calls, stage: int, tap: Tap | None = None) -> Calls:
        self._check_step(stage)
        return self._advanced(carry, stage, tap)

    def sites(self, stage: int) -> tuple[str, ...]:
        if not 0 < stage < len(self._calls):
            return (STATE,)
        return (STATE, *(site for site, _ in _inside(self._module(self._calls[stage]))))

    def read(self, carry: Calls, stage: int) -> Tensor:
        return carry[0]

    def write(self, carry: Calls, stage: int, state_BTD: Tensor) -> Calls:
        parts = list(carry)
        parts[0] = state_BTD.to(carry[0].dtype)
        if stage < len(self._calls):
            parts[2 + stage] = parts[0]
        return Calls(*parts)

    def live(self, carry: Calls, stage: int) -> Tensor:
        return torch.cat([carry[0], *(carry[2 + call] for call in self.living(stage))], dim=-1)

    def with_live(self, carry: Calls, stage: int, live_BTX: Tensor) -> Calls:
        living = self.living(stage)
        sizes = [carry[0].shape[-1], *(carry[2 + call].shape[-1] for call in living)]
        own_BTD, *others = torch.split(live_BTX, sizes, -1)
        parts = list(self.write(carry, stage, own_BTD))
        for call, value_BTD in zip(living, others, strict=True):
            parts[2 + call] = value_BTD.to(carry[2 + call].dtype)
        return Calls(*parts)

    def living(self, stage: int) -> tuple[int, ...]:
        """Earlier stages whose values are read again after `stage`, and so live on beside its state: seen by
        changing each, with all others as they were, and looking at the logits."""
        if stage not in self._living:
            self._living[stage] = self._found_living(stage)
        return self._living[stage]

    def unembed(self, state_BTD: Tensor) -> Tensor:
        tokens_BT = torch.zeros(state_BTD.shape[:2], dtype=torch.int64, device=state_BTD.device)
        replayed = [state_BTD.to(self.dtype)] * len(self._calls)
        return self._logits(tokens_BT, replayed, state_BTD)

    def hidden(self, tokens_BS: Tensor, loops: int | None = None) -> Tensor:
        """See `Reasoner.hidden`.

        Raises:
            InputError: other loops are asked for than the model makes.
        """
        if loops not in (None, self.loops):
            raise InputError(f"loops = {loops}: this model makes {self.loops}, as its own code says.")
        ends: list[Tensor] = []
        with self._running([], ends.append) as made:
            self._forward(tokens_BS)
        if made[0] < len(self._calls):
            raise InputError(f"loops = {self.loops}: {FEWER}.")
        return ends[-1]

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """The model's own logits, in float32."""
        return self._forward(tokens_BS).float()

    # One run of their forward.

    def _module(self, name: str) -> nn.Module:
        return self.theirs.get_submodule(name)

    def _forward(self, tokens_BS: Tensor) -> Tensor:
        return _logits_of(self.theirs(tokens_BS.long(), **self.options))

    def _advanced(self, carry: Calls, stage: int, tap: Tap | None) -> Calls:
        """The carry at a stage from the one before."""
        got: list[Tensor] = []

        def leave(value: Tensor) -> None:
            got.append(value)
            raise _Left

        past = list(carry[2 : 2 + min(stage, len(self._calls))])
        at_end = stage == len(self._calls)
        with self._running(past, leave if at_end else None, None if at_end else leave, tap):
            try:
                self._forward(carry[1])
            except _Left:
                pass
            else:
                raise InputError(f"stage = {stage}: {FEWER}.")
        parts = list(carry)
        parts[0] = got[0]
        if not at_end:
            parts[2 + stage] = got[0]
        return Calls(*parts)

    def _logits(self, tokens_BT: Tensor, replayed: list[Tensor], end_BTD: Tensor | None = None) -> Tensor:
        """Logits where all calls are replayed and, if it is given, the last state is put in at the end."""
        with self._running(replayed, None, None, None, end_BTD):
            return self._forward(tokens_BT).float()

    @contextmanager
    def _running(
        self,
        past: Sequence[Tensor],
        at_end: Callable[[Tensor], None] | None = None,
        after: Callable[[Tensor], None] | None = None,
        tap: Tap | None = None,
        end_BTD: Tensor | None = None,
    ) -> Iterator[list[int]]:
        """Their modules such that the first calls answer with `past`, the one after them is tapped and told
        to `after`; the state at the end is told to `at_end`, or is `end_BTD`."""
        made, normed = [0], [0]
        handles: list[Any] = []
        plain: list[tuple[nn.Module, Any]] = []

        def answering(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                call = made[0]
                made[0] += 1
                if call >= len(self._calls) or self._calls[call] != name:
                    raise InputError(
                        f"call {call} is of {name}, and was of another module before: the sequence of calls "
                        "must not depend on the input."
                    )
                if call < len(past):
                    return _shaped(past[call], self._extra.get(name, 0))
                taps = _tapping(self._module(name), tap) if tap is not None and call == len(past) else []
                try:
                    out = own(*args, **kwargs)
                finally:
                    for handle in taps:
                        handle.remove()
                self._extra[name] = len(out) - 1 if isinstance(out, tuple) else 0
                if after is not None and call == len(past):
                    after(_state(out))
                return out

            return forward

        def entering(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            normed[0] += 1
            if self._norm is not None and normed[0] < self._norm_calls:
                return None
            if at_end is not None:
                at_end(args[0])
            return None if end_BTD is None else (end_BTD.to(args[0].dtype), *args[1:])

        for name in dict.fromkeys(self._calls):
            module = self._module(name)
            plain.append((module, module.__dict__.get("forward")))
            module.forward = answering(name, module.forward)
        end = self._module(self._norm if self._norm is not None else self._head)
        handles.append(end.register_forward_pre_hook(entering))
        try:
            yield made
        finally:
            for handle in handles:
                handle.remove()
            for module, before in plain:
                if before is None:
                    del module.__dict__["forward"]
                else:
                    module.forward = before

    # What is seen once.

    @property
    def _extra(self) -> dict[str, int]:
        """How many further things a layer returns beside its state."""
        found: dict[str, int] = self.__dict__.setdefault("_further", {})
        return found

    @torch.no_grad()
    def _found_living(self, stage: int) -> tuple[int, ...]:
        tokens_1S = (
            torch.arange(min(4, self.positions), device=next(self.parameters()).device)[None] % self.vocab
        )
        carry = self.start(tokens_1S)
        for one in range(1, min(stage, len(self._calls) - 1) + 1):
            carry = self.step(carry, one)
        known = list(carry[2 : 2 + min(stage + 1, len(self._calls))])
        draw = torch.Generator().manual_seed(0)
        rows = []
        for value in known:
            noise = torch.randn(value.shape, generator=draw).to(value) * value.float().std().to(value)
            rows.append([noise if other is value else other for other in known])
        rows.append(known)
        batch = [torch.cat(parts) for parts in zip(*rows, strict=True)]
        with self._running(batch):
            logits_BTV = self._forward(tokens_1S.expand(len(rows), -1)).float()
        change_B = (logits_BTV - logits_BTV[-1]).abs().amax((1, 2))
        limit = QUIET * float(logits_BTV[-1].abs().max())
        return tuple(call for call in range(len(known)) if call != stage and float(change_B[call]) > limit)

    @torch.no_grad()
    def _check(self, tokens_BS: Tensor) -> None:
        """Refuse what would be read wrongly."""
        once, again, alone = self(tokens_BS), self(tokens_BS), self(tokens_BS[1:])
        near = 1e-4 * float(once.abs().max())
        if not torch.equal(once, again):
            raise InputError(
                "the model gives other logits a second time: make its initial state a fixed one."
            )
        if not torch.allclose(once[1:], alone, 1e-4, near):
            raise InputError(
                "the model's logits of a row depend on the other rows: that cannot be looked at."
            )
        if not torch.allclose(self.unembed(self.hidden(tokens_BS)), once, 1e-4, near):
            raise InputError(
                f"norm = {self._norm!r}: what enters it does not give the model's logits; say which norm "
                "stands before the head."
            )


class _Seen:
    """One plain run of their model: which modules are called, in order, and what enters the head."""

    def __init__(self, theirs: nn.Module, watched: Sequence[str], head: str, options: dict[str, Any]) -> None:
        self.theirs, self.watched, self.head, self.options = theirs, watched, head, options
        self.calls: list[str] = []
        self.answers: list[tuple[nn.Module, Tensor]] = []
        self.entered: dict[nn.Module, Tensor] = {}
        self.times: dict[nn.Module, int] = {}

    @torch.no_grad()
    def run(self, tokens_BS: Tensor) -> None:
        names = {id(self.theirs.get_submodule(name)): name for name in self.watched}

        def note(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            self.times[module] = self.times.get(module, 0) + 1
            value = out[0] if isinstance(out, tuple) and out else out
            if id(module) in names:
                self.calls.append(names[id(module)])
            if isinstance(value, Tensor):
                self.answers.append((module, value))
            if args and isinstance(args[0], Tensor):
                self.entered[module] = args[0]

        handles = [module.register_forward_hook(note) for module in self.theirs.modules()]
        try:
            _logits_of(self.theirs(tokens_BS, **self.options))
        finally:
            for handle in handles:
                handle.remove()
        head = self.theirs.get_submodule(self.head)
        if head not in self.entered:
            raise InputError(f"head = {self.head!r}: it is not called.")
        self.end = self.entered[head]
        self.dtype = self.end.dtype

    def norm(self, own: dict[int, str]) -> str | None:
        """The first module that answered what enters the head, unless that is a layer."""
        for module, value in self.answers:
            if _same(value, self.end):
                return None if own[id(module)] in self.watched else own[id(module)]
        return None

    def count(self, name: str) -> int:
        module = self.theirs.get_submodule(name)
        if module not in self.entered:
            raise InputError(f"norm = {name!r}: it is not called.")
        self.end = self.entered[module]
        return self.times[module]

    @property
    def ends_in_a_call(self) -> bool:
        """Whether the last layer's answer is what enters the norm, or the head."""
        layer = self.theirs.get_submodule(self.calls[-1])
        return _same([value for module, value in self.answers if module is layer][-1], self.end)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors that are both kept are one, or a view of all of it."""
    return one.shape == other.shape and one.data_ptr() == other.data_ptr()


def _said(theirs: nn.Module, method: str, own: dict[int, str]) -> str | None:
    """The module that the model itself calls its embedding or its head."""
    found = getattr(theirs, method, lambda: None)()
    return own.get(id(found))


def _first(names: dict[str, nn.Module], kind: type[nn.Module]) -> str | None:
    return next((name for name, module in names.items() if isinstance(module, kind)), None)


def _members(names: dict[str, nn.Module], layers: Sequence[str] | None) -> list[str]:
    """The layers by name: those named, lists opened; or the members of all outermost lists."""
    for name in layers or ():
        if name not in names:
            raise InputError(f"layers = {name!r}: the model has no module of this name.")
    lists = [name for name, module in names.items() if isinstance(module, nn.ModuleList)]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    members = []
    for name in outer if layers is None else layers:
        inside = names[name]
        members += (
            [f"{name}.{i}" for i in range(len(inside))] if isinstance(inside, nn.ModuleList) else [name]
        )
    if not members:
        raise InputError("layers = None: the model has no ModuleList; name the modules that are called.")
    return members


def _places(members: Sequence[str]) -> tuple[dict[str, tuple[str, int]], bool]:
    """Group and number of every layer: of `model.L_module.layers.1` L_module and 1; whether there are several
    groups."""
    groups: dict[str, list[str]] = {}
    for name in members:
        groups.setdefault(name.rpartition(".")[0] if name.rpartition(".")[2].isdecimal() else "", []).append(
            name
        )
    labels = [group.split(".") for group in groups]
    place = {}
    for parts, inside in zip(labels, groups.values(), strict=True):
        told = [part for part in parts if sum(part in other for other in labels) == 1]
        for number, name in enumerate(inside):
            place[name] = ((told[0] if told else "layer") + ".", number)
    return place, len(groups) > 1


def _logits_of(out: Any) -> Tensor:
    found = getattr(out, "logits", out)
    found = found[0] if isinstance(found, tuple) else found
    if not isinstance(found, Tensor) or found.ndim != 3:
        raise InputError(
            f"the model returns {type(out).__name__}: must be logits (batch, positions, tokens)."
        )
    return found


def _state(out: Any) -> Tensor:
    value = out[0] if isinstance(out, tuple) else out
    if not isinstance(value, Tensor) or value.ndim != 3:
        raise InputError(f"a layer returns {type(out).__name__}: must be a state (batch, positions, width).")
    return value


def _shaped(state_BTD: Tensor, extra: int) -> Any:
    """A state as a layer returned it: alone, or with further things that nobody needs without a cache."""
    return (state_BTD, *[None] * extra) if extra else state_BTD


def _inside(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """The sites of a layer, each with the submodule whose output it is."""
    found = []
    for site, names in SITES.items():
        module = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
        if isinstance(module, nn.Module):
            found.append((site, module))
    return found


def _tapping(layer: nn.Module, tap: Tap) -> list[Any]:
    """Hooks through which a tap sees, and may replace, what the parts of a layer return."""

    def hooked(site: str) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, out: Any) -> Any:
            value = tap(site, _state(out))
            return (value, *out[1:]) if isinstance(out, tuple) else value

        return hook

    return [module.register_forward_hook(hooked(site)) for site, module in _inside(layer)]
