"""The associative scan as a function, as an engine, and time cut in segments."""

from collections import OrderedDict

import pytest
import torch

import recurra
from recurra.engines import affine, compiled, scan, traced
from recurra.engines.kernels import segments
from recurra.testing.cases import draw, gradients
from recurra.testing.tolerances import assert_close


def maps(earlier, later):
    (a, b), (c, d) = earlier, later
    return c * a, c * b + d


@pytest.mark.parametrize("time", [0, 1, 2, 3, 7, 8, 33])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_affine_maps(time, dim):
    shape = [3, 2]
    shape.insert(dim if dim >= 0 else 2, time)
    a, b = torch.randn(2, *shape, dtype=torch.float64).unbind(0)
    _, h = recurra.scan(maps, (a, b), dim)
    expected, state = [], torch.zeros(3, 2, dtype=torch.float64)
    for t in range(time):
        state = a.select(dim, t) * state + b.select(dim, t)
        expected.append(state)
    assert h.shape == b.shape
    if time:
        assert_close("h", h, torch.stack(expected, dim))


def test_softmax_triple_and_gradient():
    """Attention's softmax, its maximum carried along, over every prefix."""

    def combine(earlier, later):
        m = torch.maximum(earlier["m"], later["m"])
        a, b = torch.exp(earlier["m"] - m), torch.exp(later["m"] - m)
        u = a * earlier["u"] + b * later["u"]
        return {"m": m, "u": u, "w": a[..., None] * earlier["w"] + b[..., None] * later["w"]}

    def attention(score, value):
        sums = recurra.scan(combine, {"m": score, "u": torch.ones_like(score), "w": value})
        return sums["w"] / sums["u"][..., None]

    score = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    value = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.softmax(torch.where(torch.ones(5, 5).tril() > 0, score[:, None], float("-inf")), -1)
    assert_close("attention", attention(score, value), weight @ value)
    assert torch.autograd.gradcheck(attention, (score, value))


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ((), "empty"),
        ((1.0,), "float"),
        ((torch.zeros(2, 3), torch.zeros(2, 4)), r"lengths \[3, 4\]"),
        (torch.zeros(3), "expected a tree of tensors with time along axis 1"),
    ],
)
def test_wrong_elements_are_named(elements, words):
    with pytest.raises(recurra.InputError, match=words):
        recurra.scan(maps, elements)


def test_wrong_combination_is_named():
    with pytest.raises(recurra.InputError, match="combine returned"):
        recurra.scan(lambda a, b: (a[0],), (torch.zeros(1, 4), torch.zeros(1, 4)))


@pytest.mark.parametrize("result", [lambda a, b: b[:, :1], lambda a, b: b.sum(), lambda a, b: 1.0, lambda a, b: None])
def test_combine_keeps_shapes(result):
    with pytest.raises(recurra.InputError, match=r"combine returned .* from two times \[2, 4\]; expected"):
        recurra.scan(result, torch.zeros(2, 9))


def test_scan_along_an_axis_counted_from_the_end():
    """Which is another one in each tensor."""
    a, b = torch.rand(2, 9, dtype=torch.float64), torch.randn(3, 2, 9, dtype=torch.float64)
    _, expected = recurra.scan(maps, (a.expand(3, 2, 9), b), 2)
    assert_close("h", recurra.scan(maps, (a, b), -1)[1], expected)


@pytest.mark.parametrize("time", [0, 1, 2])
def test_scan_gives_tensors_of_its_own(time):
    x = torch.ones(2, time)
    recurra.scan(torch.add, x).zero_()
    assert x.eq(1).all()


SCANNED = [name for name in recurra.layers() if recurra.layer(name, 8).refusals(torch.randn(1, 2, 8))["scan"] is None]


@pytest.mark.parametrize("name", SCANNED)
@pytest.mark.parametrize("on", ["loop", "scan"])
def test_elements_in_pytorch(name, on, monkeypatch):
    """What runs where there is no compiled loop: elements of all time steps, and their scan."""
    monkeypatch.setattr(scan.compiled, "refuses", lambda problem: "pretend")
    if on == "scan":
        monkeypatch.setattr(affine.compiled, "runs_on", lambda device: False)
    for options in ({"state": True, "resets": True}, {"state": True, "lengths": True}):
        case = draw(lambda: recurra.layer(name, 8), torch.float64, batch=3, time=7, **options)
        with monkeypatch.context() as original:
            original.undo()
            expected = gradients(case, "loop")
        got = gradients(case, "scan")
        for key, value in expected.items():
            assert_close(f"{name}, {options}: {key}", got[key], value)


@pytest.mark.parametrize("name", ["min-gru", "lru", "mamba", "s4d", "rg-lru", "rwkv7"])
@pytest.mark.parametrize("time", [1023, 1024, 2000])
def test_segments_are_the_loop_bit_for_bit(name, time, monkeypatch):
    layer = recurra.layer(name, 4)
    x = torch.randn(2, time, 4)
    resets = torch.rand(2, time) < 0.001
    monkeypatch.setattr(segments, "SHORTEST", 64)
    for threads in (3, 4):
        torch.set_num_threads(threads)
        with torch.no_grad():
            expected, end = layer(x, resets=resets, engine="compiled")
            for _ in range(2):  # the second time, segments begin early
                y, state = layer(x, resets=resets, engine="scan")
                assert torch.equal(y, expected)
                assert all(torch.equal(state[k], end[k]) for k in end)


@pytest.mark.parametrize("name", ["min-gru", "gated-delta-net"])
def test_segments_meet_soon_where_the_state_is_forgotten(name, monkeypatch):
    launched = []
    steps = segments._Sequence._steps

    def counted(self, states, begin, count, pieces):
        launched.append(count)
        return steps(self, states, begin, count, pieces)

    monkeypatch.setattr(segments._Sequence, "_steps", counted)
    monkeypatch.setattr(traced, "_traces", OrderedDict())  # a plan that nobody has called yet
    torch.set_num_threads(2)
    layer = recurra.layer(name, 8)
    with torch.no_grad():
        layer(torch.randn(1, 8192, 8), engine="scan")
        assert launched[0] == 4096
        assert 0 < sum(launched[1:]) < 2048
        launched.clear()
        layer(torch.randn(1, 8192, 8), engine="scan")
    assert len(launched) == 2, "segments begin early enough to have forgotten, and nothing is repaired"
    assert launched[0] + 2 * launched[1] == 8192


def test_segments_where_nothing_is_forgotten():
    """A running sum never meets its guess: every segment is run twice, and is right."""
    layer = recurra.layer("linear-attention", 8)
    x = torch.randn(1, 3000, 8)
    torch.set_num_threads(2)
    assert segments.possible(layer.problem(x), 2)
    y, _ = layer(x, engine="scan")
    assert torch.equal(y, layer(x, engine="compiled")[0])


def test_gradient_through_segments():
    layer = recurra.layer("min-gru", 4).double()
    x = torch.randn(1, 1100, 4, dtype=torch.float64, requires_grad=True)
    torch.set_num_threads(2)
    grads = []
    for engine in ("scan", "compiled"):
        y, state = layer(x, engine=engine)
        grads.append(torch.autograd.grad((y**2).sum() + state["h"].sum(), [x, *layer.parameters()]))
    for a, b in zip(*grads, strict=True):
        assert_close("gradient", a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["min-gru", "lru", "diagonal-gru"])
def test_a_million_time_steps(name):
    layer = recurra.layer(name, 4)
    x = torch.randn(1, 1 << 20, 4)
    torch.set_num_threads(2)
    with torch.no_grad():
        expected, _ = layer(x, engine="compiled")
        problem = layer.problem(x)
        for engine, module in recurra.engines.choose.ENGINES.items():
            if engine != "loop" and module.refuses(problem) is None:
                assert_close(engine, layer(x, engine=engine)[0], expected, torch.float32)


def test_scan_says_what_in_the_step_forbids_it():
    with pytest.raises(recurra.EngineRefused, match=r"not affine in the state: \w+ of the state at .*lstm\.py:\d+"):
        recurra.layer("lstm", 8)(torch.randn(1, 2, 8), engine="scan")


def test_linear_solve_both_ways():
    A, u = torch.randn(3, 9, 2, 2, 5, dtype=torch.float64) * 0.5, torch.randn(3, 9, 2, 5, dtype=torch.float64)
    h, start = torch.randn(3, 2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    resets, lengths = torch.rand(3, 9) < 0.3, None
    by_loop = affine._by_loop(A, u, h, start, resets, lengths)
    assert_close("h", affine._by_scan(A, u, h, start, resets, lengths), by_loop)
    assert compiled.runs_on(u.device)
