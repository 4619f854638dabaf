"""Laws of form: however a recurrence is run, cut, packed or batched, it is the same function."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from recurra.engines.choose import ENGINES, observe
from recurra.recurrence import Recurrence
from recurra.state import State
from recurra.testing.cases import Case, Make, compare, draw, gradients, rounded, states_close
from recurra.testing.tolerances import assert_close

LONG = 512
"""Time steps that a long sequence has at least."""
ATTEMPTS = 5
"""Calls after which whatever a kind of call needs has been compiled."""


def same_as_reference(make: Make, engine: str, dtype: torch.dtype) -> None:
    """1. An engine gives what the reference loop gives, in value and in every gradient."""
    for options in ({}, {"state": True}, {"resets": True}, {"lengths": True, "state": True, "resets": True}):
        compare(draw(make, dtype, batch=3, time=7, **options), engine)
        if engine == "scan":
            _hold_elements(draw(make, dtype, batch=3, time=7, state="state" in options))


def _hold_elements(case: Case) -> None:
    """Hold the scan of elements, which runs where there is no compiled loop, to the reference."""
    assert isinstance(case.layer, Recurrence)
    with torch.no_grad():
        problem = case.layer.problem(case.x, **case.beside)
        expected, got = ENGINES["loop"].run(problem), ENGINES["scan"].by_elements(problem)
    assert_close("y by elements", got.y, expected.y, case.x.dtype)
    for name, value in expected.state.items():
        assert_close(f"state {name} by elements", got.state[name], value, case.x.dtype)


def cut_anywhere(make: Make, engine: str, dtype: torch.dtype) -> None:
    """2. A sequence cut anywhere, with the state carried over, gives what the whole gives."""
    case = draw(make, dtype, time=8, state=True, resets=True)
    y, end = case.run(engine)
    for cut in (0, 1, 5, 8):
        first, state = case.part(slice(0, cut), case.state).run(engine)
        second, state = case.part(slice(cut, 8), state).run(engine)
        assert_close(f"y cut at {cut}", torch.cat([first, second], 1), y, dtype)
        states_close(case, f"cut at {cut}", state, end)


def single_steps(make: Make, engine: str, dtype: torch.dtype) -> None:
    """3. T single steps give what one call of length T gives."""
    case = draw(make, dtype, time=6)
    y, end = case.run(engine)
    state, steps = None, []
    for t in range(6):
        y_t, state = case.layer.advance(case.x[:, t], state, engine=engine, **case.beside_at(t))
        steps.append(y_t)
    assert_close("y of single steps", torch.stack(steps, 1), y, dtype)
    assert state is not None
    states_close(case, "single steps", state, end)


def packed_and_padded(make: Make, engine: str, dtype: torch.dtype) -> None:
    """4. Sequences packed with resets give what they give apart; padding, whatever it holds, changes nothing."""
    case = draw(make, dtype, batch=2, time=9)
    starts = [0, 2, 3, 7, 9]
    resets = torch.zeros(2, 9, dtype=torch.bool)
    resets[:, starts[:-1]] = True
    y, end = replace(case, resets=resets, state=_other_state(case)).run(engine)
    for a, b in pairwise(starts):
        alone, last = case.part(slice(a, b), None).run(engine)
        assert_close(f"packed sequence {a}:{b}", y[:, a:b], alone, dtype)
    states_close(case, "packed", end, last)

    padded = case.x.clone()
    padded[0, 4:], padded[1] = float("nan"), float("inf")
    clean = replace(case, x=padded, lengths=torch.tensor([4, 0]))
    y, end = clean.run(engine)
    alone, last = case.part(slice(0, 4), None).run(engine)
    assert_close("valid part of a padded row", y[:1, :4], alone[:1], dtype)
    assert_close("output in the padding", y[0, 4:], torch.zeros_like(y[0, 4:]), dtype)
    states_close(case, "padded", end.rows(0), last.rows(0))
    states_close(case, "a row that is all padding", end.rows(1), case.layer.initial_state(1))
    for name, value in gradients(clean, engine).items():
        assert value.isfinite().all(), f"{name} is not finite: NaN leaked from the padding"


def _other_state(case: Case) -> State:
    with torch.no_grad():
        return replace(case, x=torch.randn_like(case.x)).run("loop")[1]


def beside_x(make: Make, engine: str, dtype: torch.dtype) -> None:
    """4b. What is given beside x, and what is given back beside y, is cut, packed, padded and streamed as they are."""
    case = draw(make, dtype, batch=2, time=6, state=True, resets=True, beside=True)
    if case.layer.refusals(case.x, **case.beside)[engine] is not None:
        return
    compare(case, engine)
    y, end, more = case.tell(engine)
    first = case.part(slice(0, 2), case.state).tell(engine)
    second = case.part(slice(2, 6), first[1]).tell(engine)
    alone = case.row(1).tell(engine)
    for name, value in {"y": y, **more}.items():
        parts = [part[0] if name == "y" else part[2][name] for part in (first, second)]
        assert_close(f"{name} cut at 2, with inputs beside x", torch.cat(parts, 1), value, dtype)
        assert_close(f"{name} of a row alone", alone[0] if name == "y" else alone[2][name], value[1:], dtype)
    states_close(case, "cut at 2, with inputs beside x", second[1], end)
    _steps_with_beside(replace(case, resets=None), engine)
    _padding_with_beside(replace(case, resets=None, state=None), engine)


def _steps_with_beside(case: Case, engine: str) -> None:
    y, end, more = case.tell(engine)
    state, steps = case.state, []
    for t in range(case.x.shape[1]):
        y_t, state, more_t = case.layer.advance(case.x[:, t], state, engine=engine, aux=True, **case.beside_at(t))
        steps.append({"y": y_t, **more_t})
    for name, value in {"y": y, **more}.items():
        assert_close(f"{name} of single steps", torch.stack([s[name] for s in steps], 1), value, case.x.dtype)
    assert state is not None
    states_close(case, "single steps with inputs beside x", state, end)


def _padding_with_beside(case: Case, engine: str) -> None:
    """Whatever the padding holds."""
    beside = {name: value.clone() for name, value in case.beside.items()}
    for value in beside.values():
        value[0, 4:] = float("nan") if value.is_floating_point() else 0
    padded = replace(case, beside=beside, lengths=torch.tensor([4, 6]))
    y, _, more = padded.tell(engine)
    alone, _, more_alone = case.row(0).part(slice(0, 4), None).tell(engine)
    for name, value in {"y": y, **more}.items():
        assert_close(f"valid part of {name}", value[:1, :4], {"y": alone, **more_alone}[name], case.x.dtype)
        assert_close(f"{name} in the padding", value[0, 4:], torch.zeros_like(value[0, 4:]), case.x.dtype)
    for name, value in gradients(padded, engine).items():
        assert value.isfinite().all(), f"{name} is not finite: NaN leaked from the padding"


def rows_are_alone(make: Make, engine: str, dtype: torch.dtype) -> None:
    """5a. A sequence in a batch gives what it gives alone, whatever the others are and however many."""
    case = draw(make, dtype, batch=3, time=6, state=True, resets=True, lengths=True)
    y, end = case.run(engine)
    for row in range(3):
        alone, last = case.row(row).run(engine)
        assert_close(f"row {row} of a batch of 3", y[row : row + 1], alone, dtype)
        states_close(case, f"row {row} of a batch of 3", end.rows(row), last)


def long_sequences(make: Make, engine: str, dtype: torch.dtype) -> None:
    """5b. Over hundreds of time steps: outputs before a cut, drawn at random, do not depend on what comes after it, in
    value or in gradient; and the two parts, with the state carried over, give what the whole gives."""
    time = LONG + int(torch.randint(64, ()))
    cut = int(torch.randint(1, time, ()))
    case = draw(make, dtype, batch=1, time=time, state=True)
    beside = {name: value.repeat(3, *[1] * (value.dim() - 1)) for name, value in case.beside.items()}
    later = torch.cat([case.x[:, :cut], torch.randn_like(case.x[:, cut:])], 1)
    # Side by side, since what takes time is the steps: the case, the same with a rounding more, and another end.
    x = torch.cat([case.x, rounded(case.x), later]).requires_grad_()
    assert case.state is not None
    state = State({name: torch.cat([value, rounded(value), value]) for name, value in case.state.items()})
    y, end = replace(case, x=x, state=state, beside=beside).run(engine)
    whole, nearby, changed = y.unbind()
    # Some recurrences make much of a rounding, and more with time; what differs by less is the same.
    slack = 100 * _largest((nearby - whole).detach()).cummax(0).values
    assert_close(f"before a change of x at {cut}", changed[:cut], whole[:cut], dtype, _over(slack[:cut], whole))
    if whole.isfinite().all() and y.requires_grad:
        (slope,) = torch.autograd.grad(whole[:cut].sum(), x)
        assert_close(f"gradient of outputs before {cut} in later x", slope[0, cut:], torch.zeros_like(slope[0, cut:]))
    with torch.no_grad():
        first, state = case.part(slice(0, cut), case.state).run(engine)
        second, last = case.part(slice(cut, time), state).run(engine)
    assert_close(f"y cut at {cut} of {time}", torch.cat([first, second], 1)[0], whole, dtype, _over(slack, whole))
    last, end, rounded_end = (case.layer.trim(s) for s in (last, end.rows(0), end.rows(1)))
    for name, value in end.items():
        counts = not (value.is_floating_point() or value.is_complex()) or not value.numel()
        moved = 0.0 if counts else 100 * _moved(rounded_end[name], value)
        assert_close(f"state {name!r}, cut at {cut} of {time}", last[name], value, dtype, moved)


def _largest(difference: Tensor) -> Tensor:
    """[T, ...] to [T]: of each time step; infinite where something is not finite."""
    flat = difference.abs().flatten(1).amax(1) if difference.numel() else difference.new_zeros(len(difference)).abs()
    return flat.nan_to_num(torch.inf, torch.inf)


def _moved(nearby: Tensor, value: Tensor) -> Tensor:
    """By how much at most what is finite of a state was moved by a rounding; infinite where it did not stay so."""
    return torch.where(value.isfinite(), nearby - value, 0).abs().nan_to_num(torch.inf, torch.inf).max()


def _over(slack: Tensor, like: Tensor) -> Tensor:
    """One number for each time step, for all of its outputs."""
    return slack.view(-1, *[1] * (like.dim() - 1)).expand(len(slack), *like.shape[1:])


def any_shape(make: Make, engine: str, dtype: torch.dtype) -> None:
    """8. Length 0 and 1, batch 0 and 1, odd sizes and inputs in any memory order."""
    for batch, time in ((2, 0), (0, 3), (1, 1), (1, 5), (5, 2), (7, 3)):
        compare(draw(make, dtype, batch=batch, time=time, state=True), engine)
    case = draw(make, dtype, batch=3, time=4)
    y, _ = case.run(engine)
    shuffled = case.x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert_close("y of a transposed x", replace(case, x=shuffled).run(engine)[0], y, dtype)
    wide = torch.stack([case.x, case.x], -1)[..., 0]
    assert_close("y of a strided x", replace(case, x=wide).run(engine)[0], y, dtype)
    one = case.x[:1].expand(3, -1, -1)
    beside = {name: value[:1].expand_as(value) for name, value in case.beside.items()}
    got = replace(case, x=one, beside=beside).run(engine)[0]
    assert_close("y of an expanded x", got, y[:1].expand_as(y), dtype)


def path_is_known(make: Make, engine: str, dtype: torch.dtype) -> None:
    """10. The engine asked for is the one that ran, and there is an end to what calls of one kind compile."""
    case = draw(make, dtype)
    for attempt in range(ATTEMPTS):
        before = _compilations()
        with observe() as seen:
            replace(case, x=case.x + attempt).run(engine)
        assert seen == [engine], f"asked for engine {engine!r}, ran {seen}"
        if attempt and _compilations() == before:
            # Numbers may decide which kernels a call needs, Newton's method on its iterations; but there are few.
            return
    raise AssertionError(f"compiled again on each of {ATTEMPTS} calls of the same kind")


def _compilations() -> int:
    return sum(getattr(module, "compilations", lambda: 0)() for module in ENGINES.values())
