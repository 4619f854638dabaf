"""The contract: a recurrence is its step. Subclass `Recurrence`, write four short methods, get a whole layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

from torch import Tensor, nn

from recurra import beside, check
from recurra.contract import Layer, Paper
from recurra.engines.choose import explain, reasons_to_refuse, run, structure_of
from recurra.engines.newton.engine import Solve
from recurra.engines.reading import Reading
from recurra.engines.stepping import single
from recurra.engines.stepping.modules import settled, with_tensors
from recurra.engines.traced import Structure
from recurra.errors import RecurraError
from recurra.problem import DeltaRule, Lane, Problem, StepInput, cast, compute_dtype
from recurra.state import State
from recurra.windows import Past

__all__ = ["BoundStep", "Paper", "Recurrence"]


class Recurrence(Layer):
    """A layer that maps x [B, T, D] to y [B, T, D'] by one `step` per time step.

    A subclass says what its lane is and writes:

    - `start(self)`: names to tensors [L, ...], the state before the first time step of any sequence.
    - `inputs(self, x)`: names to what `step` reads, [B, T, L, ...], for all time steps at once. Wrap an entry in
      `shared` ([B, T, ...]: all lanes read the same) or `constant` ([L, ...]: never changes) where that is so.
    - `step(self, *states, **inputs)`: one time step of one lane of one sequence, in pure PyTorch without batch or
      lane axis. Takes the states in the order of `start`, the inputs by name; returns `(state, output)`, or
      `((state, state, ...), output)`. May read the module's parameters: every lane reads them whole.
    - `outputs(self, y, x)`: from what the steps gave, [B, T, L, ...], to the layer's result, or to that and names to
      tensors [B, T, ...], which a call with `aux=True` returns as well. Optional.

    A recurrence with one lane (`Lane.LAYER`) has no lane axis anywhere. A layer that looks back a few time steps
    while preparing its inputs declares `windows`, and then writes `inputs(self, x, past)` (see `recurra.windows`).
    One that reads more than x writes `inputs(self, x, *, mask, action=None)`: these are arguments of a call then,
    [B, T, ...] each, and are cut, padded and streamed as x is.

    A recurrence that is associative without being affine may say so by a method `combine(earlier, later)`, which takes
    the states that two neighbouring stretches of time lead to, each from the start state, and returns those that both
    lead to: engine "scan" runs it then. A matrix memory of the delta rule family may say how its steps are one, by a
    method `as_delta_rule` that takes what `step` takes, for all time steps at once, and returns a `DeltaRule`: engine
    "chunkwise" runs it then.
    """

    withheld: ClassVar[Mapping[str, str]] = {}
    """Names of what `step` reads that does not reach the output of its own time step, each with the reason: a predictor
    gives its output before it reads x, missing values are replaced. It is stated for the laws, which then check that
    NaN in these does not come out at its time step, and that NaN in all others does."""
    last_solve: Solve | None = None
    """How the last call on the Newton engine went: iterations, residual, time steps left to the loop, seconds."""

    def start(self) -> Mapping[str, Tensor]:
        """The state before the first time step: names to tensors [L, ...]."""
        raise NotImplementedError(f"{type(self).__name__} must define start(self)")

    def inputs(self, x: Tensor, past: Any = None, **named: Any) -> Mapping[str, Tensor | StepInput]:
        """What `step` reads, for all time steps at once."""
        raise NotImplementedError(f"{type(self).__name__} must define inputs(self, x)")

    def step(self, *states: Tensor, **inputs: Tensor) -> tuple[Any, Tensor]:
        """One time step of one lane of one sequence."""
        raise NotImplementedError(f"{type(self).__name__} must define step(self, *states, **inputs)")

    def outputs(self, y: Tensor, x: Tensor) -> Any:  # noqa: ARG002
        """The layer's result from what the steps gave; by default y with all its axes after time flattened."""
        return y.flatten(2) if y.dim() > 2 else y[..., None]

    def _run(
        self,
        x: Tensor,
        state: State,
        resets: Tensor | None,
        lengths: Tensor | None,
        engine: str,
        given: Mapping[str, Tensor],
    ) -> tuple[Any, State]:
        past = Past(self.windows, state, resets, lengths, engine == "loop")
        rollout = run(self._problem(x, state, resets, lengths, past, given), engine)
        if "last_solve" in rollout.report:
            self.last_solve = rollout.report["last_solve"]
        y = rollout.y.squeeze(2) if self.lane is Lane.LAYER else rollout.y
        y = check.called(self.outputs, "outputs(self, y, x)", y, x)
        squeeze = (lambda s: s.squeeze(1)) if self.lane is Lane.LAYER else (lambda s: s)
        return y, State({name: squeeze(value) for name, value in rollout.state.items()} | past.carry)

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

        Of one sequence, without gradients and on the CPU, engine "auto" runs the whole layer as one kernel, its
        matrices included, if `inputs`, `step` and `outputs` can be traced and do nothing but compute.
        """
        plain = engine == "auto" and not aux and not named
        if plain and isinstance(x_t, Tensor) and isinstance(state, Mapping):
            done = single.advance(self, partial(self._alone, x_t, state), x_t, [state])
            if done is not None:
                return done[0], State(done[1][0])
        return super().advance(x_t, state, engine=engine, aux=aux, **named)

    def _alone(self, x_t: Tensor, state: Mapping[str, Tensor]) -> list[nn.Module]:
        """What takes a time step of these arguments, once they are looked at."""
        check.sequence(self, x_t[:, None])
        check.state(self, state, x_t[:, None])
        return [self]

    def _start(self, reference: Tensor) -> dict[str, Tensor]:
        """`start()` in the dtype and on the device of the layer."""
        state = check.start(self, self.start())
        dtype = compute_dtype(reference.dtype)
        return {name: cast(value.to(reference.device), dtype) for name, value in state.items()}

    @property
    def structure(self) -> Structure:
        reference = self._reference(None)
        return structure_of(self.problem(reference.new_zeros(1, 1, self.width), **self._needed(1, 1)))

    def explain(self, x: Tensor, **named: Tensor | None) -> dict[str, Any]:
        """What would run on x [B, T, D]: the structure, the engine that "auto" picks, and for every engine the
        milliseconds it is expected to take forward, or why it cannot run. Only the first time step of x is looked
        at."""
        return explain(self.outline(x, **named))

    def refusals(self, x: Tensor, **named: Tensor | None) -> dict[str, str | None]:
        return reasons_to_refuse(self.outline(x, **named))

    def problem(self, x: Tensor, **named: Tensor | None) -> Problem:
        """What an engine would be given for x [B, T, D], from the start state, without resets and lengths."""
        check.declared(self)
        check.sequence(self, x)
        given = beside.named(type(self).__name__, self.beside, named)
        given = beside.at_steps(given, x.shape[:2], x.device, None)
        state = self.initial_state(x.shape[0], x)
        return self._problem(x, state, None, None, Past(self.windows, state, None, None), given)

    def outline(self, x: Tensor, **named: Tensor | None) -> Problem:
        """As `problem`, with the tensors of one time step of one sequence: enough to weigh engines, and none can run
        it."""
        check.declared(self)
        check.sequence(self, x)
        first = {name: value[:1, :1] if isinstance(value, Tensor) else value for name, value in named.items()}
        return replace(self.problem(x[:1, :1], **first), batch=x.shape[0], time=x.shape[1])

    def _problem(
        self,
        x: Tensor,
        state: State,
        resets: Tensor | None,
        lengths: Tensor | None,
        past: Past,
        given: Mapping[str, Tensor],
    ) -> Problem:
        if self.windows:
            wanted = "inputs(self, x, past), since the layer has windows"
            inputs = check.called(self.inputs, wanted, x, past, **given)
            check.windows_used(self, past.carry)
        else:
            inputs = check.called(self.inputs, "inputs(self, x), since the layer has no windows", x, **given)
        start = self._start(self._reference(x))
        one_lane = self.lane is Lane.LAYER
        lanes = 1 if one_lane else next(iter(start.values())).shape[0]
        if one_lane:
            start = {name: value[None] for name, value in start.items()}
        marked = check.step_inputs(self, inputs, x, None if one_lane else lanes, len(start))
        if one_lane:
            marked = {name: _with_lane_axis(entry) for name, entry in marked.items()}
        step = BoundStep(self, tuple(start))
        if step.reading.devices - {x.device}:
            check.one_device(self, step.weights, x.device)
        return Problem(
            step=step,
            inputs=marked,
            state={name: state[name][:, None] if one_lane else state[name] for name in start},
            start=start,
            resets=resets,
            lengths=lengths,
            batch=x.shape[0],
            time=x.shape[1],
            lanes=lanes,
            lane=Lane(self.lane),
            dtype=x.dtype,
            device=x.device,
        )


def _with_lane_axis(entry: StepInput) -> StepInput:
    if not entry.per_lane:
        return entry
    return StepInput(entry.tensor.unsqueeze(2 if entry.per_time else 0), entry.per_time)


def in_type_of(x: Tensor, module: nn.Module) -> Tensor:
    """`module(x)` computed in the type of x, whatever type the module is held in."""
    held = check.representative(module)
    if held is None or held.dtype == x.dtype:
        return module(x)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return with_tensors(module, {name: cast(tensor, x.dtype) for name, tensor in tensors.items()})(x)


class BoundStep:
    """`Recurrence.step` as the pure function that engines see: checked, and able to read other weights."""

    def __init__(self, recurrence: Recurrence, names: tuple[str, ...], settled: bool = False):
        self.owner, self.names, self._is_settled = recurrence, names, settled

    @cached_property
    def recurrence(self) -> Recurrence:
        """The recurrence, with parametrised weights computed: once for all time steps."""
        if self._is_settled or not Reading.of(self.owner).parametrised:
            return self.owner
        return settled(self.owner)

    @cached_property
    def reading(self) -> Reading:
        """What the step reads of the recurrence, and whatever else it can reach."""
        return Reading.of(self.recurrence)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The tensors among that, by where they are found."""
        return self.reading.tensors

    @property
    def combine(self) -> Callable[[tuple, tuple], tuple] | None:
        """The recurrence's own associative operation, if it has one, checked."""
        own, owner = getattr(self.recurrence, "combine", None), type(self.recurrence).__name__
        if own is None:
            return None
        wanted = "combine(self, earlier, later)"
        return lambda a, b: check.combined(owner, self.names, a, check.called(own, wanted, a, b))

    def bind(self, weights: Mapping[str, Tensor]) -> BoundStep:
        """The same step on a shallow copy of the module that holds these tensors; the module is not touched."""
        return BoundStep(with_tensors(self.recurrence, weights), self.names, True)

    @property
    def as_delta_rule(self) -> Callable[..., DeltaRule] | None:
        """The recurrence's method of that name, if it has one, checked."""
        own, owner = getattr(self.recurrence, "as_delta_rule", None), type(self.recurrence).__name__
        if own is None:
            return None
        wanted = "the arguments of step"
        return lambda *args, **inputs: check.delta_rule(owner, check.called(own, wanted, *args, **inputs))

    def __call__(self, states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """One time step of one lane. Raises InputError if `step` does not return what the contract asks for."""
        owner = type(self.recurrence).__name__
        try:
            result = self.recurrence.step(*states, **inputs)
        except (IndexError, RuntimeError, ValueError) as error:
            if not isinstance(error, NotImplementedError | RecurraError):
                seen = dict(zip(self.names, states, strict=True)) | dict(inputs)
                error.add_note(check.what_a_lane_is(owner, self.recurrence.lane, seen))
            raise
        return check.step_result(owner, self.names, states, result)
