"""Laws of numbers: slopes, rounding, and values that are none."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from recurra.engines.choose import ENGINES
from recurra.recurrence import Recurrence
from recurra.state import State
from recurra.testing.cases import Case, Make, draw, gradients, weighted
from recurra.testing.tolerances import assert_close

DISTANCE = 1e-6
"""How far x or a parameter moves, as a whole, for a finite difference."""
ALLOWED = 1e-5
"""By how much a finite difference may miss a slope, in parts of the gradient's length."""


def gradients_are_derivatives(make: Make, engine: str, dtype: torch.dtype) -> None:
    """6a. In float64, gradients are the derivatives that finite differences show.

    Two calls one after the other, so that a slope goes through the state that is carried; the state itself is moved
    only as inputs move it: a counter stays one, and what is symmetric stays symmetric.
    """
    case = draw(make, dtype, batch=2, time=5)
    layer, beside = case.layer, case.beside
    tensors = {"x": case.x} | {f"parameter {n}": p for n, p in layer.named_parameters() if p.requires_grad}
    tensors = {name: t.detach().clone().requires_grad_() for name, t in tensors.items()}

    def total(moved: dict[str, Tensor]) -> Tensor:
        weights = {name.removeprefix("parameter "): t for name, t in moved.items() if name != "x"}

        def call(steps: slice, state: State | None) -> tuple[Tensor, State]:
            given = {name: value[:, steps] for name, value in beside.items()} | {"engine": engine}
            return torch.func.functional_call(layer, weights, (moved["x"][:, steps], state), given)

        first, state = call(slice(0, 3), None)
        second, state = call(slice(3, 5), state)
        return weighted({"first": first, "second": second} | state)

    loss = total(tensors)
    slopes = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True) if loss.requires_grad else None
    for (name, tensor), slope in zip(tensors.items(), slopes or [None] * len(tensors), strict=True):
        slope = torch.zeros_like(tensor) if slope is None else slope
        towards = torch.randn_like(tensor) if tensor.numel() else tensor.detach()
        towards = towards * (DISTANCE / max(float(towards.norm()), 1e-9))
        with torch.no_grad():
            ahead, behind = (total(tensors | {name: tensor + side * towards}) for side in (1, -1))
        shown = float(ahead - behind) / (2 * DISTANCE)
        claimed = float((slope.conj() * towards).sum().real) / DISTANCE
        limit = ALLOWED * max(1.0, float(slope.norm()))
        assert abs(shown - claimed) <= limit, (
            f"gradient of {name}: along a random direction it says {claimed:.9g}, finite differences {shown:.9g}"
        )


def rounds_like_the_reference(make: Make, engine: str, dtype: torch.dtype) -> None:
    """6b. In a short dtype, results are within rounding of the float64 reference on the same numbers."""
    case = draw(make, dtype, state=True)
    got = gradients(case, engine)
    expected = gradients(replace(case, layer=copy.deepcopy(case.layer)).to(torch.float64), "loop")
    for name, value in expected.items():
        assert_close(f"{name} in {dtype} on engine {engine!r}", got[name], value, dtype)


def nan_stays_where_it_is(make: Make, engine: str, dtype: torch.dtype) -> None:
    """7. NaN or Inf in one sequence comes out in it, where the reference says, and nowhere else; a reset ends it; and
    inputs that a recurrence says are withheld from the output are, while the others are not."""
    for poison in (float("nan"), float("inf")):
        case = draw(make, dtype, time=8)
        resets = torch.zeros(3, 8, dtype=torch.bool)
        resets[1, 6] = True
        clean, _ = replace(case, resets=resets).run(engine)
        x = case.x.clone()
        x[1, 3] = poison
        poisoned = replace(case, x=x, resets=resets)
        y, _ = poisoned.run(engine)
        for row in (0, 2):
            assert_close(f"sequence {row} beside one with {poison}", y[row], clean[row], dtype)
        assert_close(f"before {poison}", y[1, :3], clean[1, :3], dtype)
        assert_close(f"after a reset that follows {poison}", y[1, 6:], clean[1, 6:], dtype)
        if poison != poison:
            expected, _ = poisoned.run("loop")
            lost = expected.isnan() & ~y.isnan()
            assert not lost.any(), f"NaN in the input did not come out in {int(lost.sum())} places of the reference"
    if isinstance(case.layer, Recurrence) and case.layer.withheld:
        _only_these_are_withheld(case.layer, case, engine)


def _only_these_are_withheld(layer: Recurrence, case: Case, engine: str) -> None:
    with torch.no_grad():
        problem = layer.problem(case.x, **case.beside)
        real = {n for n, e in problem.inputs.items() if e.per_time and (e.tensor.is_floating_point() or
                                                                        e.tensor.is_complex())}  # fmt: skip
        for name, reason in layer.withheld.items():
            assert name in real, f"withheld names {name!r}; inputs gives {', '.join(sorted(real))} as numbers over time"
            assert str(reason).strip(), f"withheld gives no reason for {name!r}"
        for name in sorted(real):
            tensor = problem.inputs[name].tensor.clone()
            tensor[1, 3] = float("nan")
            inputs = dict(problem.inputs) | {name: replace(problem.inputs[name], tensor=tensor)}
            came = bool(ENGINES[engine].run(replace(problem, inputs=inputs)).y[1, 3].isnan().any())
            if name in layer.withheld:
                assert not came, f"NaN in {name!r} came out at its time step, and {name!r} is said to be withheld"
            else:
                assert came, f"NaN in {name!r} did not come out at its time step, and it is not said to be withheld"
