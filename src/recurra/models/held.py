"""What a block holds, from its name in a pattern: a layer, layers side by side, a layer that is fed, channel mixers.

All are called as layers are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from recurra import beside, check, options, registry
from recurra.errors import InputError
from recurra.models.design import Design
from recurra.models.fed import PARTS, Fed, Transformer
from recurra.models.mixers import MLP, Experts
from recurra.models.pattern import feeder, is_channel_mixer, kind, side_by_side
from recurra.options import shown
from recurra.state import State

OF_THE_BLOCK = ("gain", "norm_at", "keep")
NORM_AT = ("before", "after", "around", "both")

Options = Mapping[str, Mapping[str, Any]]


class Sum(nn.Module):
    """Layers side by side: they read the same, and their outputs are added, each times its gain. A name in the state
    begins with the number of its layer.

    Raises InputError if one gives another number of channels than it takes.
    """

    def __init__(self, layers: list[Any], gains: list[float]):
        super().__init__()
        self.layers, self.gains = nn.ModuleList(layers), gains

    @property
    def beside(self) -> Mapping[str, bool]:
        """As `Layer.beside`, of all of them."""
        return beside.taken_by_all(self._layers)

    @property
    def endless(self) -> bool:
        """Whether the state grows without bound."""
        return any(layer.endless for layer in self._layers)

    @property
    def output_width(self) -> int:
        """Channels of the output."""
        found = [layer.output_width for layer in self._layers]
        if len(set(found)) > 1:
            raise InputError(
                f"layers side by side give {shown(found)} channels; expected as many of each: they are added"
            )
        return found[0]

    @property
    def _layers(self) -> list[Any]:
        return list(self.layers)

    def initial_state(self, batch: int) -> State:
        """The state before the first time step."""
        state = State()
        for i, layer in enumerate(self._layers):
            state |= layer.initial_state(batch).prefixed(str(i))
        return State(state)

    def forward(self, x: Tensor, state: Any = None, *, aux: bool = False, **how: Any) -> tuple[Any, ...]:
        """As `Layer.forward`."""
        names = [str(i) for i in range(len(self.layers))]
        given = check.parts("this block", state, names)
        carried: list[State | None] = [None] * len(names) if given is None else [*given]
        named = {name: how.pop(name) for name in self.beside if name in how}
        total, after, more = None, State(), dict[str, Tensor]()
        for name, layer, gain, own in zip(names, self._layers, self.gains, carried, strict=True):
            y, new, told = layer(x, own, aux=True, **how, **beside.for_part(layer, named))
            y = y if gain == 1 else gain * y
            total = y if total is None else total + y
            after |= new.prefixed(name)
            more |= beside.prefixed(name, told)
        return (total, State(after), more) if aux else (total, State(after))


def make(name: str, width: int, layers: Options, bidirectional: bool, shared: dict[str, Any], design: Design) -> Any:
    """What a block of this name holds.

    Args:
        layers: options by names; those in `OF_THE_BLOCK` are the block's.
        shared: what has been made under names with a label; more is added.
        design: of the norms inside.

    Raises InputError if an option is not what it may be.
    """
    names = side_by_side(name)
    found, gains = [], []
    for one in names:
        own = {key: value for key, value in layers.get(one, {}).items() if key not in OF_THE_BLOCK}
        gains.append(options.number("gain", layers.get(one, {}).get("gain", 1.0), -options.MOST))
        made = shared.get(one) if "@" in one else None
        if made is None:
            made = _layer(one, width, bidirectional, own)
        if "@" in one:
            shared[one] = made
        found.append(made)
    held = found[0] if names[1:] == [] and gains[0] == 1 else Sum(found, gains)
    by = feeder(name)
    if by is None:
        return held
    like = shared.get(by) if "@" in by else None
    transformer = _made(by, Transformer, width, design, like, **layers.get(by, {}))
    shared.setdefault(by, transformer)
    return Fed(width, transformer, held, design.make_norm(width))


def _layer(one: str, width: int, bidirectional: bool, own: Mapping[str, Any]) -> Any:
    if is_channel_mixer(one):
        return _made(one, {"mlp": MLP, "experts": Experts}[kind(one)], width, **own)
    directions: dict[str, Any] = {"bidirectional": True} if bidirectional else {}
    return registry.layer(kind(one), width, **directions, **own)


def _made(one: str, made: Callable[..., Any], *args: Any, **own: Any) -> Any:
    try:
        return made(*args, **own)
    except TypeError as error:
        raise InputError(f"{kind(one)} was given {shown(own)}: {error}") from error


def around(name: str, layers: Options) -> tuple[str, float]:
    """Where the norm of a block of this name stands, and the factor of what flows past what it holds.

    Raises InputError if layers side by side say different things.
    """
    given = [layers.get(one, {}) for one in side_by_side(name)]
    found = {
        (
            options.choice("norm_at", own.get("norm_at", "before"), NORM_AT),
            options.number("keep", own.get("keep", 1.0), -options.MOST),
        )
        for own in given
    }
    if len(found) > 1:
        raise InputError(f"layers of {name!r} differ in norm_at or keep, which are their block's; expected the same")
    place, keep = found.pop()
    if feeder(name) and place != "before":
        raise InputError(f"norm_at is {place!r} in {name!r}; expected 'before': it stands behind what feeds the layer")
    return place, keep


def layers_of(held: Any) -> dict[str, Any]:
    """The layers that a block holds, by what follows the block's own name in the names of their state."""
    if isinstance(held, Sum):
        return {f".{i}": layer for i, layer in enumerate(held.layers)}
    if isinstance(held, Fed):
        fed = {f".{PARTS[1]}{name}": layer for name, layer in layers_of(held.layer).items()}
        return {f".{PARTS[0]}": held.transformer} | fed
    return {"": held}
