"""What every model has in its middle: residual blocks by a pattern, one after another, called as a layer is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recurra import beside, check, options, packed
from recurra.engines.stepping import single
from recurra.errors import InputError
from recurra.models.block import Block
from recurra.models.design import Design
from recurra.models.pattern import all_named, depth, feeder, is_channel_mixer, parse
from recurra.options import shown
from recurra.problem import compute_dtype
from recurra.state import State, joined


class Normed(nn.Module):
    """The last part of a model, called as layers are: a norm."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, state: Mapping[str, Tensor], engine: str = "auto") -> tuple[Tensor, dict]:  # noqa: ARG002
        """What flows out of the blocks, [B, T, D], to the same and no state."""
        held = check.representative(self.norm)
        return self.norm(x if held is None else x.to(held.dtype)), {}


class Backbone(nn.Module):
    """Residual blocks, each a recurrence and a gated MLP, and a norm: `y, state = backbone(x, state, ...)`.

    Args:
        width: channels of x and y.
        pattern: which recurrence each block holds, such as "mamba*3+lstm".
        mlp: hidden width of the gated MLPs; by default twice the width; 0 leaves them out.
        dropout: of what each block adds, while training.
        layers: options of recurrences, by the name they have in the pattern: {"mamba": {"state_size": 8}}.
        design: norms, activation and biases of the blocks, a `Design` or its fields; what it says of embeddings and
            heads is for models that have them.
        bidirectional: each block reads in both directions; then there is no state to go on from, and no streaming.

    Raises:
        InputError: an argument is out of range, or the pattern names no known layers.
    """

    embeds = False
    """Whether what flows into the blocks are embeddings, which layers that are fed read as well."""

    def __init__(
        self,
        width: int = 256,
        pattern: str = "min-gru*2",
        *,
        mlp: int | None = None,
        dropout: float = 0.0,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        design: Design | Mapping[str, Any] | None = None,
        bidirectional: bool = False,
    ):
        super().__init__()
        self.width = options.count("width", width)
        mlp = options.whole("mlp", 2 * width if mlp is None else mlp)
        options.number("dropout", dropout, 0, 1)
        self.bidirectional = options.flag("bidirectional", bidirectional)
        names = parse(pattern)
        if not self.embeds and (fed := [name for name in names if feeder(name)]):
            raise InputError(f"pattern has {fed[0]!r}, which reads embeddings of tokens; only a LanguageModel has them")
        layers, self.design = _options_of_layers(layers, names), _as_design(design)
        depth(names, layers)
        self.config: dict[str, Any] = {
            "width": width, "pattern": pattern, "mlp": mlp, "dropout": dropout, "layers": layers,
            "design": asdict(self.design), "bidirectional": bidirectional,
        }  # fmt: skip
        self._make_front()
        self.blocks, gives = nn.ModuleList(), dict[str, int]()
        if torch.get_default_device().type == "meta":  # an outline, which may be of anything, runs nothing
            gives = {name: width * (1 if is_channel_mixer(name) else 1 + bidirectional) for name in names}
        shared = dict[str, nn.Module]()
        for name in names:  # what a layer gives is found by running it: once for all that are alike
            block = Block(name, width, mlp, dropout, layers, self.design, bidirectional, gives.get(name), shared)
            self.blocks.append(block)
            gives[name] = block.gives
        self.norm = self.design.make_norm(width)

    def _make_front(self) -> None:
        """Make the parts in front of the blocks, so that they come first in files and draw their numbers first."""

    def extra_repr(self) -> str:
        return f"{self.width}, {self.config['pattern']!r}" + ", bidirectional=True" * self.bidirectional

    @property
    def beside(self) -> Mapping[str, bool]:
        """As `Layer.beside`, of all blocks."""
        return beside.taken_by_all(self.blocks)  # type: ignore[arg-type]

    @property
    def endless(self) -> bool:
        """Whether the state grows without bound."""
        return any(block.recurrence.endless for block in self.blocks)  # type: ignore[union-attr]

    def initial_state(self, batch: int) -> State:
        """The state before the first time step; names start with `blocks.<number>`."""
        state = State()
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            state |= block.recurrence.initial_state(batch).prefixed(f"blocks.{i}")
        return State(state)

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
        aux: bool = False,
        **named: Tensor | None,
    ) -> tuple[Any, ...]:
        """As `Layer.forward`, x [B, T, width] to y [B, T, width]. What is given by name goes to the blocks that
        take it.

        Raises InputError if an argument does not fit, or a state is given to a bidirectional one.
        """
        if isinstance(x, PackedSequence):
            return packed.through(self, x, state, resets=resets, lengths=lengths, engine=engine, aux=aux, **named)
        check.sequence(self, x)  # type: ignore[arg-type]
        resets, lengths = check.resets(resets, x), check.lengths(lengths, x)
        valid = None
        if lengths is not None:  # selected, so that NaN in the padding reaches no weight's gradient
            valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = torch.where(valid[..., None], x, 0)
        given = beside.at_steps(beside.named("this backbone", self.beside, named), x.shape[:2], x.device, valid)
        carried = check.parts("this backbone", state, self._names())
        y, after, more = self._run(self._held(x), carried, resets, lengths, engine, given, aux)
        y = y.to(x.dtype)
        y = y if valid is None else torch.where(valid[..., None], y, 0)
        return (y, after, more) if aux else (y, after)

    def advance(
        self,
        x_t: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        engine: str = "auto",
        aux: bool = False,
        **named: Tensor | None,
    ) -> tuple[Any, ...]:
        """One time step: x_t [B, width] and the state so far to y_t [B, width] and the next state.

        Raises InputError if it is bidirectional: that needs the whole sequence.
        """
        if self.bidirectional:
            raise InputError("advance was called on a bidirectional backbone, which needs the whole sequence: call it")
        check.time_step(x_t, self.width)
        return beside.one_step(self, x_t, state, engine=engine, aux=aux, **named)

    def _run(
        self,
        x: Tensor,
        carried: list[State] | None,
        resets: Tensor | None,
        lengths: Tensor | None,
        engine: str,
        given: Mapping[str, Tensor],
        aux: bool,
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """What the last part gives of what flows into the blocks, the new state, and if that is asked for what blocks
        give beside; one kernel where that can be."""
        if carried and not given and not aux and _is_one_step(x, resets, lengths, engine):
            done = single.advance(self, self._parts, x[:, 0], [*carried, {}])
            if done is not None:
                return done[0][:, None].to(self._like.dtype), joined(self._names(), done[1][:-1]), {}
        after: list[State] = []
        more: dict[str, Tensor] = {}
        for i, name in enumerate(self._names()):
            x, new, *told = self._through(i, x, carried, resets, lengths, engine, given, aux)
            after.append(new)
            for one in told:
                more |= beside.prefixed(name, one)
        return self._last(x, {})[0], joined(self._names(), after), more

    def _through(
        self,
        i: int,
        x: Tensor,
        carried: list[State] | None,
        resets: Tensor | None,
        lengths: Tensor | None,
        engine: str,
        given: Mapping[str, Tensor],
        aux: bool = False,
    ) -> tuple[Any, ...]:
        """What flows out of block i, its new state, and with `aux` what it gives beside."""
        block, own = self.blocks[i], carried[i] if carried else None
        named: dict[str, Any] = beside.for_part(block, given) if given else {}  # type: ignore[arg-type]
        if own is not None and not named and not aux and _is_one_step(x, resets, lengths, engine):
            one = single.advance(block, partial(list, (block,)), x[:, 0], [own])
            if one is not None:
                return one[0][:, None], State(one[1][0])
        more = {"aux": True} if aux else {}
        return block(x, own, resets=resets, lengths=lengths, engine=engine, **named, **more)

    def _held(self, x: Tensor) -> Tensor:
        """What flows past the blocks, in the type it has there."""
        return x.to(compute_dtype(x.dtype)) if self.design.float32_residual else x

    def _names(self) -> list[str]:
        """Of the blocks, as the state has them."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def _parts(self) -> list[nn.Module]:
        """What is called one after another on what flows in."""
        return [*self.blocks, self._last]

    @property
    def _last(self) -> nn.Module:
        """What follows the blocks as it is now, kept outside of what is registered."""
        known = vars(self).get("_head", (None,))[0]
        if known is None or known.norm is not self.norm:
            known = Normed(self.norm)
            vars(self)["_head"] = (known,)
        return known

    @property
    def _like(self) -> Tensor:
        """A tensor of the type of what comes out, on the device of the model."""
        own = check.representative(self)
        return torch.empty(0) if own is None else own


def _is_one_step(x: Tensor, resets: Tensor | None, lengths: Tensor | None, engine: str) -> bool:
    """Whether a call asks for the next time step and no more."""
    return x.shape[1] == 1 and resets is None and lengths is None and engine == "auto"


def _options_of_layers(layers: Any, names: list[str]) -> dict[str, dict[str, Any]]:
    options_of, known = {} if layers is None else layers, all_named(names)
    if not isinstance(options_of, Mapping) or not all(isinstance(own, Mapping) for own in options_of.values()):
        raise InputError(f"layers is {shown(layers)}; expected names of the pattern with their options")
    if strange := [name for name in options_of if name not in known]:
        raise InputError(f"layers names {strange}, which the pattern does not; it has {sorted(known)}")
    if both := [name for name, own in options_of.items() if own.get("bidirectional")]:
        raise InputError(
            f"layers makes {both} bidirectional; a backbone is so as a whole, and none that is to predict what comes"
        )
    return {name: dict(own) for name, own in options_of.items()}


def _as_design(design: Any) -> Design:
    if isinstance(design, Design):
        return design
    known = [field.name for field in fields(Design)]
    given = {} if design is None else design
    if not isinstance(given, Mapping) or not set(given) <= set(known):
        raise InputError(f"design is {shown(design)}; expected a Design, or a dict with some of {', '.join(known)}")
    return Design(**given)
