"""Checks at the border: every argument is looked at once, before any work, and every message names it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from recurra.errors import InputError
from recurra.options import shown
from recurra.problem import DeltaRule, Lane, StepInput
from recurra.state import State


class Owner(Protocol):
    """What is asked of a layer whose arguments are checked."""

    width: int
    lane: ClassVar[Lane]
    windows: dict[str, tuple[int, int]]

    @property
    def growing(self) -> tuple[str, ...]: ...

    @property
    def step(self) -> Any: ...

    def _fresh(self, batch: int, like: Tensor | None) -> State: ...


def describe(value: object) -> str:
    """What came, in the words of a message: shape, dtype and device of a tensor, else its type."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
    return f"a {type(value).__name__}"


def sequence(layer: Owner, x: object) -> None:
    """`x` is [B, T, width] of the layer's dtype, on its device."""
    if torch._C._get_tracing_state() is not None:
        raise InputError(
            f"torch.jit.trace would record {type(layer).__name__} for this very input; use torch.export, or trace what "
            "is around the layer"
        )
    if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[2] != layer.width:
        raise InputError(f"x is {describe(x)}; {type(layer).__name__} expects [B, T, {layer.width}]")
    parameter = representative(layer)
    if parameter is None:
        if not x.is_floating_point():
            raise InputError(f"x is {describe(x)}; {type(layer).__name__} expects floating point: use x.float()")
        return
    if x.device != parameter.device:
        raise InputError(f"x is on {x.device}, {type(layer).__name__} on {parameter.device}: move one of them")
    if x.dtype != parameter.dtype and not torch.is_autocast_enabled(x.device.type):
        or_else = f" or layer.to({x.dtype})" if x.is_floating_point() else ""
        raise InputError(
            f"x is {x.dtype}, {type(layer).__name__} holds {parameter.dtype}: use x.to({parameter.dtype}){or_else}"
        )


def declared(layer: Owner) -> None:
    """`lane` is one, and `windows` are names to sizes."""
    owner, lane = type(layer).__name__, getattr(layer, "lane", None)
    if not isinstance(lane, Lane):
        raise InputError(
            f"{owner}.lane is {shown(lane)}; expected Lane.CHANNEL, Lane.HEAD or Lane.LAYER, the smallest part of the "
            "state that evolves without looking at the others"
        )
    for name, size in layer.windows.items():
        if not isinstance(size, tuple) or [type(number) for number in size] != [int, int] or min(size) < 0:
            raise InputError(f"{owner}.windows[{name!r}] is {shown(size)}; expected (channels, steps)")


def representative(module: Any) -> Tensor | None:
    """The parameter of a module whose dtype and device its inputs have, or None if it has none in floating point.

    It is the first matrix, looked for in the module's parts before among its own: those are maps of x. Vectors, such as
    decays and norms, may be held in another type, and what is quantised in integers.
    """
    found = _first_matrix(module)
    return next((p for p in module.parameters() if p.is_floating_point()), None) if found is None else found


def _first_matrix(module: Any) -> Tensor | None:
    for part in module._modules.values():
        if part is not None and (found := _first_matrix(part)) is not None:
            return found
    for parameter in module._parameters.values():
        if parameter is not None and parameter.dim() > 1 and parameter.is_floating_point():
            return parameter
    return None


def time_step(x_t: object, width: int) -> None:
    """`x_t` is [B, width]."""
    if not isinstance(x_t, Tensor) or x_t.dim() != 2:
        raise InputError(f"x_t is {describe(x_t)}; expected [B, {width}]: one time step per sequence")


def parts(owner: str, value: object, names: Sequence[str]) -> list[State] | None:
    """`state` of a module that is made of others, cut into theirs, each under its name; None stays None."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InputError(f"state is {describe(value)}; expected the State that {owner} returned, or None")
    found, dots = {name: State() for name in names}, names[0].count(".")
    for name, tensor in value.items():
        *part, own = name.split(".", dots + 1) if isinstance(name, str) else (name,)
        if (whose := ".".join(part)) not in found:
            raise InputError(
                f"state holds {shown(name)}; {owner} expects names that begin with "
                f"{', '.join(f'{known}.' for known in names[:3])}{', ...' if len(names) > 3 else ''}: "
                "is it another model's?"
            )
        found[whose][own] = tensor
    return list(found.values())


def resets(value: object, x: Tensor) -> Tensor | None:
    """`resets` is None or [B, T] bool on the device of `x`."""
    if value is None:
        return None
    if not isinstance(value, Tensor) or value.dtype != torch.bool or value.shape != x.shape[:2]:
        raise InputError(
            f"resets is {describe(value)}; expected {list(x.shape[:2])} bool, True where a sequence starts"
        )
    if value.device != x.device:
        raise InputError(f"resets is on {value.device}, x on {x.device}: move one of them")
    return value


def lengths(value: object, x: Tensor) -> Tensor | None:
    """`lengths` is None or [B] integers in 0..T, given back as int64."""
    if value is None:
        return None
    integer = isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool
    if not isinstance(value, Tensor) or not integer or value.shape != x.shape[:1]:
        raise InputError(f"lengths is {describe(value)}; expected [{x.shape[0]}] integers, the valid steps of each row")
    if value.device != x.device:
        raise InputError(f"lengths is on {value.device}, x on {x.device}: move one of them")
    signed = value.long()  # unsigned integers do not compare; those of 2^63 and more become negative
    seen = unwrapped(signed)
    wrong = (seen < 0) | (seen > x.shape[1])
    # While a program is exported there are no numbers yet: the operator looks at them when it runs.
    if not torch.compiler.is_exporting() and wrong.any():
        place = wrong.nonzero()[0].tolist()
        came = functools.reduce(lambda rows, i: rows[i], place, unwrapped(value).tolist())
        raise InputError(f"lengths{place} is {came}; expected 0 to {x.shape[1]}, the time steps of x")
    return signed


def unwrapped(tensor: Tensor) -> Tensor:
    """The numbers behind a tensor that transforms of `torch.func` wrap, those of all its rows where one maps over them.

    For looking at: what is computed of them takes no part in the transform.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def state(layer: Owner, value: object, x: Tensor | None = None) -> State:
    """`state` has the names and shapes of this layer's own state, for the batch of `x`; without it, for any batch."""
    owner = type(layer).__name__
    if not isinstance(value, Mapping):
        raise InputError(f"state is {describe(value)}; expected the State that {owner} returned, or None")
    whose, like = _first(value) if x is None else ("x", x)
    expected = layer._fresh(len(like), like)
    if set(value) != set(expected):
        raise InputError(
            f"state holds {sorted(map(str, value))}; {owner} expects {sorted(expected)}: is it another layer's?"
        )
    for name, own in expected.items():
        given = value[name]
        shape = list(own.shape)
        if name in layer.growing and isinstance(given, Tensor) and given.dim() == len(shape):
            shape[2] = given.shape[2]
        if not isinstance(given, Tensor) or list(given.shape[1:]) != shape[1:]:
            raise InputError(f"state[{name!r}] is {describe(given)}; {owner} expects {shape}")
        if given.shape[0] != len(like):
            raise InputError(f"state[{name!r}] holds {given.shape[0]} sequences, {whose} holds {len(like)}")
        if given.dtype != own.dtype or given.device != own.device:
            raise InputError(f"state[{name!r}] is {describe(given)}; {owner} expects {describe(own)}")
    return State({name: value[name] for name in expected})


def _first(state: Mapping[str, object]) -> tuple[str, Tensor]:
    """The first entry of a state that is computed with: its name in a message, and one number of each of its rows."""
    for name, entry in state.items():
        if isinstance(entry, Tensor) and entry.dim() and (entry.is_floating_point() or entry.is_complex()):
            return f"state[{name!r}]", entry.new_empty(len(entry), dtype=entry.dtype.to_real())
    for name, entry in state.items():
        if isinstance(entry, Tensor) and entry.dim():  # whole numbers and flags alone, which are of any type
            return f"state[{name!r}]", torch.empty(len(entry), device=entry.device)
    return "state", torch.empty(0)


def called(method: Callable, wanted: str, *args: Any, **named: Any) -> Any:
    """What a method that the user wrote returns. Raises InputError if it cannot be called so: with what is `wanted`."""
    try:
        return method(*args, **named)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        raise InputError(f"{method.__qualname__} takes {inspect.signature(method)}; expected {wanted}") from error


def start(layer: Owner, value: object) -> Mapping[str, Tensor]:
    """What `start` returned: names to tensors, with one entry per lane if there are lanes."""
    owner, lane = type(layer).__name__, layer.lane
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"{owner}.start() returned {describe(value)}; expected a dict of tensors")
    for name, tensor in value.items():
        if not isinstance(name, str) or name in layer.windows:
            raise InputError(f"{owner}.start() names a state {shown(name)}; expected a str that is no window's name")
        if not isinstance(tensor, Tensor):
            raise InputError(f"{owner}.start() returned {name!r} as {describe(tensor)}; expected a tensor")
        if lane is not Lane.LAYER and not tensor.dim():
            raise InputError(
                f"{owner}.start() returned {name!r} as {describe(tensor)}; expected [lanes, ...], since its lane is "
                f"Lane.{lane.name}: torch.zeros(self.width), say (a state without lanes has Lane.LAYER)"
            )
    lanes = {} if lane is Lane.LAYER else {len(tensor): name for name, tensor in value.items()}
    if len(lanes) > 1:
        (few, one), (many, other), *_ = lanes.items()
        raise InputError(
            f"{owner}.start() returned {one!r} with {few} lanes and {other!r} with {many}; expected [lanes, ...] of all"
        )
    return value


def step_inputs(layer: Owner, value: object, x: Tensor, lanes: int | None, states: int) -> dict[str, StepInput]:
    """What `inputs` returned: names that `step` takes, tensors with the axes their marks say."""
    owner = type(layer).__name__
    if not isinstance(value, Mapping):
        raise InputError(f"{owner}.inputs returned {describe(value)}; expected a dict of names to tensors")
    marked = {name: entry if isinstance(entry, StepInput) else StepInput(entry) for name, entry in value.items()}
    _names_fit(layer, tuple(marked), states)
    lane_axis = () if lanes is None else (lanes,)
    for name, entry in marked.items():
        leading = (tuple(x.shape[:2]) if entry.per_time else ()) + (lane_axis if entry.per_lane else ())
        if not isinstance(entry.tensor, Tensor) or tuple(entry.tensor.shape[: len(leading)]) != leading:
            axes = ("B, T, " if entry.per_time else "") + ("lanes, " if entry.per_lane and lanes is not None else "")
            raise InputError(
                f"{owner}.inputs returned {name!r} as {describe(entry.tensor)}; expected [{axes}...] with leading "
                f"{list(leading)} (mark it shared(...) or constant(...) if it has no lane or time axis)"
            )
    return marked


def one_device(layer: Owner, read: Mapping[str, Tensor], device: torch.device) -> None:
    """What a step reads lies where its inputs do; single numbers of the CPU are read from everywhere."""
    for name, tensor in read.items():
        if tensor.device != device and not (tensor.device.type == "cpu" and tensor.dim() == 0):
            raise InputError(
                f"{type(layer).__name__}.step reads {name!r}, which is on {tensor.device}, x on {device}: make it a "
                "parameter or a buffer, which layer.to(...) moves"
            )


def _names_fit(layer: Owner, names: tuple[str, ...], states: int) -> None:
    function = getattr(layer.step, "__func__", None)
    taken = _taken_by(layer.step, 0) if function is None else _taken_by(function, 1)
    if taken is None:
        return
    expected = list(taken)[states:]
    if set(names) - set(expected) or any(taken[name] for name in set(expected) - set(names)):
        raise InputError(
            f"{type(layer).__name__}.inputs returned {list(names)}; step takes {expected} after its {states} state(s)"
        )


@functools.lru_cache(1024)
def _taken_by(step: Callable, first: int) -> dict[str, bool] | None:
    """The names of what a function takes from argument number `first` on, and whether it has to be given each; or None
    if it takes anything."""
    parameters = list(inspect.signature(step).parameters.values())[first:]
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        return None
    return {p.name: p.default is p.empty for p in parameters}


def windows_used(layer: Owner, carry: Mapping[str, Tensor]) -> None:
    """`inputs` has asked `past` for every window: else there is nothing to remember of it."""
    for name, (_, steps) in layer.windows.items():
        if steps and name not in carry:
            raise InputError(
                f"{type(layer).__name__}.inputs does not use window {name!r}; expected past.lags({name!r}, ...), "
                ".mix or .convolve: or take it out of windows"
            )


def what_a_lane_is(owner: str, lane: Lane, seen: Mapping[str, Tensor]) -> str:
    """What may have been overlooked by whoever wrote a step that fails, with the shapes that it sees."""
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in seen.items())
    more = "; a lane of Lane.CHANNEL is one channel, Lane.LAYER sees all at once" if lane is Lane.CHANNEL else ""
    return f"{owner}.step sees one lane of one sequence, without batch, time or lane axis: {shapes}{more}"


def step_result(
    owner: str, names: tuple[str, ...], before: tuple[Tensor, ...], result: object
) -> tuple[tuple[Tensor, ...], Tensor]:
    """What `step` returned: (state or states, output), the states with the shape and dtype they came in with."""
    wanted = names[0] if len(names) == 1 else f"({', '.join(names)})"
    if not isinstance(result, tuple) or len(result) != 2:
        came = f"{len(result)} values" if isinstance(result, tuple) else describe(result)
        raise InputError(f"{owner}.step returned {came}; expected two: the new state {wanted} and the output")
    after, y = result
    after = tuple(after) if isinstance(after, tuple | list) else (after,)
    if len(after) != len(names):
        raise InputError(f"{owner}.step returned {len(after)} state(s); expected {len(names)}: {wanted}")
    for name, old, new in zip(names, before, after, strict=True):
        if not isinstance(new, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
            raise InputError(f"{owner}.step returned {name} as {describe(new)}; it came in as {describe(old)}")
    if not isinstance(y, Tensor):
        raise InputError(f"{owner}.step returned {describe(y)} as output; expected a tensor")
    return after, y


def combined(owner: str, names: tuple[str, ...], states: tuple[Tensor, ...], result: object) -> tuple[Tensor, ...]:
    """What `combine` returned: states of the shapes that it was given."""
    wanted = f"({', '.join(names)}{',' * (len(names) == 1)})"
    if not isinstance(result, tuple) or len(result) != len(names):
        came = f"{len(result)} values" if isinstance(result, tuple) else describe(result)
        raise InputError(f"{owner}.combine returned {came}; expected a tuple of states {wanted}")
    for name, state, value in zip(names, states, result, strict=True):
        if not isinstance(value, Tensor) or value.shape != state.shape:
            raise InputError(f"{owner}.combine returned {name} as {describe(value)}; it came in as {describe(state)}")
    return result


def delta_rule(owner: str, rule: object) -> DeltaRule:
    """What `as_delta_rule` returned, its parts with the axes that `DeltaRule` says."""
    if not isinstance(rule, DeltaRule):
        raise InputError(f"{owner}.as_delta_rule returned {describe(rule)}; expected a DeltaRule")
    if rule.S.dim() != 4:
        raise InputError(f"{owner}.as_delta_rule: S is {describe(rule.S)}; expected [B, L, V, K]")
    batch, lanes, values, keys = rule.S.shape
    per_key = rule.log_decay is not None and rule.log_decay.dim() > 3
    several = list(rule.k.shape[3:4]) if rule.k.dim() > 4 else []  # writes in a time step
    wanted = {"q": [keys], "log_decay": [keys] * per_key, "angle": [keys // 2], "log_write": []}
    written = {"k": [keys], "v": [values], "beta": [], "erase": [keys], "take": [keys]}
    wanted |= {name: several + size for name, size in written.items()}
    for name, size in wanted.items():
        part = getattr(rule, name)
        if part is None:
            continue
        known = part.dim() > 2 and part.shape[0] in (1, batch) and part.shape[2] in (1, lanes)
        if not known or list(part.shape[3:]) != size:
            axes = ", ".join(map(str, [batch, "T", lanes, *size]))
            raise InputError(
                f"{owner}.as_delta_rule: {name} is {describe(part)}; expected [{axes}], or 1 for an axis along which "
                f"it does not change, with S {list(rule.S.shape)}"
            )
    if rule.log_write is not None and (rule.peak is None or list(rule.peak.shape) != [batch, lanes]):
        raise InputError(f"{owner}.as_delta_rule: peak is {describe(rule.peak)}; expected [{batch}, {lanes}]")
    if rule.before and rule.log_write is not None:
        raise InputError(f"{owner}.as_delta_rule: before and log_write are both given; expected one of them at most")
    return rule
