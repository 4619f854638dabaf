"""What every layer with a name in the registry is: one call, one step at a time, and a state in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recurra import beside, check, options, packed
from recurra.errors import InputError
from recurra.problem import Lane
from recurra.state import State


@dataclass(frozen=True)
class Paper:
    """Where a layer was published."""

    title: str
    authors: str
    year: int
    arxiv: str | None = None


class _Missing:
    """Stands where PyTorch keeps the parts of a module, until its `__init__` has run."""

    def __get__(self, layer: Any, kind: type) -> Any:
        if layer is None:
            return self
        raise InputError(f"{kind.__name__}.__init__ has not called super().__init__(width): that comes first")


class Layer(nn.Module):
    """Maps x [B, T, D] to y [B, T, D'], one time step after the other, with a state that can be carried on.

    There are two kinds. A `Recurrence` has a state of fixed size. The state of an `Attention` grows with time.
    """

    lane: ClassVar[Lane]
    """The smallest part of the state that evolves without looking at the others."""
    paper: ClassVar[Paper | None] = None
    growing: tuple[str, ...] = ()
    """Names of states [B, lanes, S, ...] whose third axis, S, grows with time."""

    windows: dict[str, tuple[int, int]] = {}
    """Names to (channels, steps): how far `inputs` looks back on a signal, see `recurra.windows`."""
    beside: ClassVar[Mapping[str, bool]] = {}
    """The names of what `inputs` takes beside x, found from its signature, and whether each has to be given."""

    called_in_step: ClassVar[tuple[str, ...]] = ()
    """Names of parts that nothing but `step` calls: their hooks run where the step is traced, not at each time step."""
    _backward_hooks = _modules = _Missing()

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        cls.beside = beside.taken_by(cls.__name__, cls.inputs)

    def __init__(self, width: int):
        super().__init__()
        self.width = options.count("width", width)
        self.windows = dict(self.windows)

    def extra_repr(self) -> str:
        return str(self.width)

    @property
    def endless(self) -> bool:
        """Whether the state grows without bound."""
        return False

    @property
    def structure(self) -> Any:
        """What one time step is: affine in the state or not, its coefficients, how its Jacobian is filled.

        Raises InputError, with the reason, if that cannot be found out.
        """
        raise NotImplementedError

    @property
    def output_width(self) -> int:
        """Channels of the output: D'."""
        with torch.no_grad():
            nothing = self._reference(None).new_zeros(1, 0, self.width)
            return self(nothing, engine="loop", **self._needed(1, 0))[0].shape[-1]

    def inputs(self, x: Tensor, *given: Any, **named: Any) -> Mapping[str, Any]:
        """What `step` reads, for all time steps at once."""
        raise NotImplementedError

    def example(self, batch: int, time: int) -> dict[str, Tensor]:
        """Inputs beside x as they may come, drawn at random: for `structure`, and for the laws.

        By default each is [B, T], positive, in the layer's dtype; a layer with others says so here.
        """
        like = self._reference(None)
        return {name: torch.rand(batch, time, dtype=like.dtype, device=like.device) + 0.5 for name in self.beside}

    def _needed(self, batch: int, time: int) -> dict[str, Tensor]:
        """Examples of those inputs beside x without which there is no call."""
        needed = [name for name, needed in self.beside.items() if needed]
        given = self.example(batch, time) if needed else {}
        return beside.named(
            f"{type(self).__name__}.example", dict.fromkeys(needed, True), {n: given.get(n) for n in needed}
        )

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
        """Run the layer over whole sequences.

        Args:
            x: [B, T, D] in the layer's dtype and on its device; a PackedSequence, of sorted sequences or not, comes out
                as one.
            state: where to continue from, as an earlier call returned it; None starts afresh.
            resets: [B, T] bool, True where a packed sequence starts: the state before that step is the start state.
            lengths: [B] integers in 0..T: what follows in a row is padding; its output is zero.
            engine: which engine runs the steps; "auto" picks one.
            aux: return what `outputs` gives beside y as well.
            named: the inputs beside x that the layer's `inputs` takes, [B, T, ...] each.

        Returns:
            y [B, T, D'] and the State after the last valid time step of each row; with `aux` also names to
            tensors [B, T, ...].

        Raises:
            InputError: an argument does not fit; the message names it.
            EngineRefused: the engine named cannot run this layer.
        """
        if isinstance(x, PackedSequence):
            return packed.through(self, x, state, resets=resets, lengths=lengths, engine=engine, aux=aux, **named)
        check.declared(self)
        check.sequence(self, x)
        resets, lengths = check.resets(resets, x), check.lengths(lengths, x)
        owner, valid = type(self).__name__, None
        if lengths is not None:
            valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        given = beside.named(owner, self.beside, named)
        if given:
            given = beside.at_steps(given, x.shape[:2], x.device, valid)
        if state is not None:
            state = check.state(self, state, x)
        else:  # without a time step the result is the state that came in, and that is the caller's to write on
            state = self._fresh(x.shape[0], x) if x.shape[1] else self.initial_state(x.shape[0], x)
        if valid is not None:
            x = torch.where(valid[..., None], x, 0)
        result, state = self._run(x, state, resets, lengths, engine, given)
        y, more = beside.outputs(owner, result, x.shape[:2])
        if valid is not None:
            y, more = (
                torch.where(valid[..., None], y, 0),
                {n: v.masked_fill(~beside.over(valid, v), 0) for n, v in more.items()},
            )
        return (y, state, more) if aux else (y, state)

    def advance(
        self,
        x_t: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        engine: str = "auto",
        aux: bool = False,
        **named: Tensor | None,
    ) -> tuple[Any, ...]:
        """One time step: x_t [B, D] and the state so far to y_t [B, D'] and the next state.

        What is given by name is [B, ...]; with `aux`, so is what `outputs` gives beside y.
        """
        check.time_step(x_t, self.width)
        return beside.one_step(self, x_t, state, engine=engine, aux=aux, **named)

    def initial_state(self, batch: int, like: Tensor | None = None) -> State:
        """The state before the first time step, for `batch` sequences: tensors [batch, ...] of their own memory.

        A layer without parameters takes dtype and device from `like`.

        Raises InputError if `batch` is no size.
        """
        options.whole("batch", batch)
        options.instance("like", torch.empty(0) if like is None else like, Tensor)
        return self._fresh(batch, like).clone()

    def _fresh(self, batch: int, like: Tensor | None) -> State:
        """As `initial_state`, for reading only: rows may be one memory, and that of a learned start."""
        reference = self._reference(like)
        state = {name: value.expand(batch, *value.shape) for name, value in self._start(reference).items()}
        for name, (channels, steps) in self.windows.items():
            if steps:
                state[name] = reference.new_zeros(batch, steps, channels)
        return State(state)

    def trim(self, state: Mapping[str, Tensor]) -> State:
        """The state in the fewest entries; the same state, unless it grows and rows of it were taken out.

        Raises InputError if it is not a state of this layer.
        """
        return check.state(self, state)

    def refusals(self, x: Tensor, **named: Tensor | None) -> dict[str, str | None]:
        """For every engine, why it cannot run this layer on x [B, T, D], or None if it can."""
        raise NotImplementedError

    def explain(self, x: Tensor, **named: Tensor | None) -> dict[str, Any]:
        """What would run on x [B, T, D]: plain data with `structure`, `engine` and what is `expected` of each. Printed,
        it is a line for each engine."""
        raise NotImplementedError

    def _run(
        self,
        x: Tensor,
        state: State,
        resets: Tensor | None,
        lengths: Tensor | None,
        engine: str,
        given: Mapping[str, Tensor],
    ) -> tuple[Any, State]:
        """`forward` on checked arguments, with zeros in the padding of x: what `outputs` returns, and the new state.
        What y holds in the padding does not matter."""
        raise NotImplementedError

    def _start(self, reference: Tensor) -> dict[str, Tensor]:
        """The state before the first time step, without windows and batch axis."""
        raise NotImplementedError

    def _reference(self, like: Tensor | None) -> Tensor:
        """A tensor of the layer's dtype and device."""
        own = check.representative(self)
        if own is not None:
            return own
        return torch.empty(0) if like is None else like
