"""The laws every layer keeps on every engine. Each is a function that raises AssertionError when it is broken.

Hold your own recurrence to all of them with `check_recurrence(lambda: MyRecurrence(8))`.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import pairwise

import torch

from recurra.engines.choose import ENGINES, observe
from recurra.errors import InputError
from recurra.options import function, shown
from recurra.recurrence import Recurrence
from recurra.state import State
from recurra.testing.cases import Case, Make, draw, gradients
from recurra.testing.tolerances import assert_close

Law = Callable[[Make, str, torch.dtype], None]


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
        problem = case.layer.problem(case.x)
        expected, got = ENGINES["loop"].run(problem), ENGINES["scan"].by_elements(problem)
    assert_close("y by elements", got.y, expected.y, case.x.dtype)
    for name, value in expected.state.items():
        assert_close(f"state {name} by elements", got.state[name], value, case.x.dtype)


def compare(case: Case, engine: str) -> None:
    """Hold one call on `engine` to the reference, both run in the case's dtype."""
    expected, got = gradients(case, "loop"), gradients(case, engine)
    dtype = case.x.dtype
    for name, value in expected.items():
        assert_close(f"{name} on engine {engine!r}", got[name], value, dtype)


def cut_anywhere(make: Make, engine: str, dtype: torch.dtype) -> None:
    """2. A sequence cut anywhere, with the state carried over, gives what the whole gives."""
    case = draw(make, dtype, time=8, state=True, resets=True)
    y, end = case.run(engine)
    for cut in (0, 1, 5, 8):
        first, state = _part(case, slice(0, cut), case.state).run(engine)
        second, state = _part(case, slice(cut, 8), state).run(engine)
        assert_close(f"y cut at {cut}", torch.cat([first, second], 1), y, dtype)
        _states_close(case, f"cut at {cut}", state, end, dtype)


def single_steps(make: Make, engine: str, dtype: torch.dtype) -> None:
    """3. T single steps give what one call of length T gives."""
    case = draw(make, dtype, time=6)
    y, end = case.run(engine)
    state, steps = None, []
    for t in range(6):
        y_t, state = case.layer.advance(case.x[:, t], state, engine=engine)
        steps.append(y_t)
    assert_close("y of single steps", torch.stack(steps, 1), y, dtype)
    assert state is not None
    _states_close(case, "single steps", state, end, dtype)


def packed_and_padded(make: Make, engine: str, dtype: torch.dtype) -> None:
    """4. Sequences packed with resets give what they give apart; padding, whatever it holds, changes nothing."""
    case = draw(make, dtype, batch=2, time=9)
    starts = [0, 2, 3, 7, 9]
    resets = torch.zeros(2, 9, dtype=torch.bool)
    resets[:, starts[:-1]] = True
    y, end = replace(case, resets=resets, state=_other_state(case)).run(engine)
    for a, b in pairwise(starts):
        alone, last = _part(case, slice(a, b), None).run(engine)
        assert_close(f"packed sequence {a}:{b}", y[:, a:b], alone, dtype)
    _states_close(case, "packed", end, last, dtype)

    lengths = torch.tensor([4, 0])
    padded = case.x.clone()
    padded[0, 4:], padded[1] = float("nan"), float("inf")
    clean, full = replace(case, x=padded, lengths=lengths), case
    y, end = clean.run(engine)
    alone, last = _part(full, slice(0, 4), None).run(engine)
    assert_close("valid part of a padded row", y[:1, :4], alone[:1], dtype)
    assert_close("output in the padding", y[0, 4:], torch.zeros_like(y[0, 4:]), dtype)
    _states_close(case, "padded", end.rows(0), last.rows(0), dtype)
    _states_close(case, "a row that is all padding", end.rows(1), case.layer.initial_state(1), dtype)
    for name, value in gradients(clean, engine).items():
        assert value.isfinite().all(), f"{name} is not finite: NaN leaked from the padding"


def causal(make: Make, engine: str, dtype: torch.dtype) -> None:
    """5. Output t does not depend on inputs after t, nor one sequence on another."""
    case = draw(make, dtype, time=7)
    y, _ = case.run(engine)
    later = case.x.clone()
    later[:, 4:] += 1
    assert_close("outputs before a change", replace(case, x=later).run(engine)[0][:, :4], y[:, :4], dtype)
    other = case.x.clone()
    other[1:] += 1
    assert_close("another sequence's outputs", replace(case, x=other).run(engine)[0][:1], y[:1], dtype)


def gradients_are_derivatives(make: Make, engine: str, dtype: torch.dtype) -> None:
    """6a. In float64, gradients are the derivatives that finite differences show."""
    if dtype is not torch.float64:
        return
    case = draw(make, dtype, batch=2, time=3, state=True)
    assert case.state is not None
    counts = {name: value for name, value in case.state.items() if not _has_gradient(value)}
    names = [name for name in case.state if name not in counts]
    tensors = [case.x, *(case.state[name] for name in names), *(p.detach() for p in case.layer.parameters())]
    keys = [name for name, _ in case.layer.named_parameters()]

    def call(x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state = State(dict(zip(names, rest, strict=False)) | counts)
        weights = dict(zip(keys, rest[len(names) :], strict=True))
        y, after = torch.func.functional_call(case.layer, weights, (x, state), {"engine": engine})
        return (y, *filter(_has_gradient, after.values()))

    inputs = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(call, inputs, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True)


def rounds_like_the_reference(make: Make, engine: str, dtype: torch.dtype) -> None:
    """6b. In a short dtype, results are within rounding of the float64 reference on the same numbers."""
    if dtype is torch.float64:
        return
    case = draw(make, dtype, state=True)
    got = gradients(case, engine)
    expected = gradients(Case(copy.deepcopy(case.layer), case.x, case.state).to(torch.float64), "loop")
    for name, value in expected.items():
        assert_close(f"{name} in {dtype} on engine {engine!r}", got[name], value, dtype)


def nan_stays_where_it_is(make: Make, engine: str, dtype: torch.dtype) -> None:
    """7. NaN or Inf in one sequence comes out there and nowhere else, and a reset ends it."""
    for poison in (float("nan"), float("inf")):
        case = draw(make, dtype, time=8)
        resets = torch.zeros(3, 8, dtype=torch.bool)
        resets[1, 6] = True
        clean, _ = replace(case, resets=resets).run(engine)
        x = case.x.clone()
        x[1, 3] = poison
        y, _ = replace(case, x=x, resets=resets).run(engine)
        for row in (0, 2):
            assert_close(f"sequence {row} beside one with {poison}", y[row], clean[row], dtype)
        assert_close(f"before {poison}", y[1, :3], clean[1, :3], dtype)
        assert_close(f"after a reset that follows {poison}", y[1, 6:], clean[1, 6:], dtype)
        if poison != poison:
            assert y[1, 3].isnan().any(), "NaN in the input did not come out"


def any_shape(make: Make, engine: str, dtype: torch.dtype) -> None:
    """8. Length 0 and 1, batch 0 and 1, odd sizes and inputs in any memory order."""
    for batch, time in ((2, 0), (0, 3), (1, 1), (1, 5), (5, 2), (7, 3)):
        case = draw(make, dtype, batch=batch, time=time, state=True)
        y, state = case.run(engine)
        expected, end = case.run("loop")
        assert_close(f"y for B={batch}, T={time}", y, expected, dtype)
        _states_close(case, f"B={batch}, T={time}", state, end, dtype)
        compare(case, engine)
    case = draw(make, dtype, batch=3, time=4)
    y, _ = case.run(engine)
    shuffled = case.x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert_close("y of a transposed x", replace(case, x=shuffled).run(engine)[0], y, dtype)
    wide = torch.stack([case.x, case.x], -1)[..., 0]
    assert_close("y of a strided x", replace(case, x=wide).run(engine)[0], y, dtype)
    one = case.x[:1].expand(3, -1, -1)
    assert_close("y of an expanded x", replace(case, x=one).run(engine)[0], y[:1].expand_as(y), dtype)


def is_a_module(make: Make, engine: str, dtype: torch.dtype) -> None:
    """9. Survives state_dict, pickle, deepcopy, torch.compile, and torch.export of its step."""
    case = draw(make, dtype, batch=2, time=3)
    y, _ = case.run(engine)
    fresh = make().to(dtype)
    fresh.load_state_dict(case.layer.state_dict())
    buffer = io.BytesIO()
    torch.save(case.layer, buffer)
    buffer.seek(0)
    twins = {
        "state_dict": fresh,
        "pickle": torch.load(buffer, weights_only=False),
        "deepcopy": copy.deepcopy(case.layer),
    }
    for how, twin in twins.items():
        assert_close(f"y after {how}", replace(case, layer=twin).run(engine)[0], y, dtype)
    with warnings.catch_warnings():
        # PyTorch's tracers read .grad of what they trace, and warn of it themselves.
        warnings.simplefilter("ignore")
        compiled = torch.compile(case.layer, backend="aot_eager")
        assert_close("y under torch.compile", compiled(case.x, engine=engine)[0], y, dtype)
        torch._dynamo.reset()
        if engine == "loop":
            _export_step(case)


def _export_step(case: Case) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    from recurra.testing.one_lane import one_lane

    module, example = one_lane(case)
    expected = module(*example)
    # Traced first: torch.export by itself loses values inside torch.func.grad, which a step may use.
    got = torch.export.export(make_fx(module)(*example), example).module()(*example)
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert_close(f"value {i} of the exported step", a, b)


def path_is_known(make: Make, engine: str, dtype: torch.dtype) -> None:
    """10. The engine asked for is the one that ran, and nothing is compiled again on a second call of the same kind."""
    case = draw(make, dtype)
    case.run(engine)
    before = _compilations()
    with observe() as seen:
        replace(case, x=case.x + 1).run(engine)
    assert seen == [engine], f"asked for engine {engine!r}, ran {seen}"
    assert _compilations() == before, "compiled again on a second call of the same kind"


def _compilations() -> int:
    from recurra.engines import choose

    return sum(getattr(module, "compilations", lambda: 0)() for module in choose.ENGINES.values())


LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        same_as_reference,
        cut_anywhere,
        single_steps,
        packed_and_padded,
        causal,
        gradients_are_derivatives,
        rounds_like_the_reference,
        nan_stays_where_it_is,
        any_shape,
        is_a_module,
        path_is_known,
    )
}
"""Every law by name."""


def engines_for(make: Make, dtype: torch.dtype) -> list[str]:
    """Engines that do not refuse the layer."""
    case = draw(make, dtype)
    return [name for name, reason in case.layer.refusals(case.x).items() if reason is None]


def check_recurrence(
    make: Make,
    engines: Collection[str] | None = None,
    dtypes: Collection[torch.dtype] = (torch.float64, torch.float32),
) -> None:
    """Hold a recurrence to every law on every engine that can run it.

    Args:
        make: builds a fresh small layer, for example `lambda: MyRecurrence(8)`.
        engines: names; by default all that do not refuse.
        dtypes: real dtypes to try.

    Raises:
        AssertionError: a law is broken; the message says which, on which engine, and how.
        InputError: an argument is of another type.
    """
    function("make", make)
    for name, given, kind in (("engines", () if engines is None else engines, str), ("dtypes", dtypes, torch.dtype)):
        listed = isinstance(given, Collection) and not isinstance(given, str)
        if not listed or not all(isinstance(value, kind) for value in given):
            raise InputError(f"{name} is {shown(given)}; expected a list of {kind.__name__}")
    for dtype in dtypes:
        for engine in engines_for(make, dtype) if engines is None else engines:
            for name, law in LAWS.items():
                try:
                    law(make, engine, dtype)
                except AssertionError as error:
                    raise AssertionError(f"law {name} on engine {engine!r} in {dtype}: {error}") from error


def _has_gradient(value: torch.Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _part(case: Case, steps: slice, state: State | None) -> Case:
    resets = None if case.resets is None else case.resets[:, steps]
    return replace(case, x=case.x[:, steps], state=state, resets=resets)


def _other_state(case: Case) -> State:
    with torch.no_grad():
        return case.layer(torch.randn_like(case.x), engine="loop")[1]


def _states_close(case: Case, what: str, got: State, expected: State, dtype: torch.dtype) -> None:
    got, expected = case.layer.trim(got), case.layer.trim(expected)
    for name, value in expected.items():
        assert_close(f"state {name!r}, {what}", got[name], value, dtype)
