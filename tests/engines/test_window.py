"""Short convolutions and mixes on the compiled loop: what lagged signals give, gradients and windows included."""

import pytest
import torch

from recurra.engines.kernels import window
from recurra.errors import InputError
from recurra.testing.tolerances import assert_close
from recurra.windows import Past


def holding(resets=None, lengths=None, plain=False, **carried):
    windows = {name: (window.shape[2], window.shape[1]) for name, window in carried.items()}
    return Past(windows, carried, resets, lengths, plain)


def run(plain, leaves, resets, lengths, silu=False, dilation=1):
    carried, signal, weight, bias = (t.detach().requires_grad_() if t is not None else None for t in leaves)
    past = holding(resets, lengths, plain, conv=carried)
    y = past.convolve("conv", signal, weight, bias, silu=silu, dilation=dilation)
    if lengths is not None:
        y = torch.where((torch.arange(signal.shape[1]) < lengths[:, None])[..., None], y, 0)
    slopes = torch.linspace(-1, 1, y.numel()).view_as(y)
    total = (y.double() * slopes).sum() + past.carry["conv"].double().square().sum()
    given = [t for t in (carried, signal, weight, bias) if t is not None]
    return [y, past.carry["conv"], *torch.autograd.grad(total, given)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("silu", [False, True])
def test_equals_the_sum_of_lagged_signals(dtype, resets, lengths, silu):
    for time, channels, steps, biased in ((1, 3, 3, True), (2, 3, 3, True), (17, 5, 1, False), (40, 9, 3, True)):
        carried = torch.randn(2, steps, channels, dtype=dtype)
        signal, weight = torch.randn(2, time, channels, dtype=dtype), torch.randn(channels, steps + 1, dtype=dtype)
        bias = torch.randn(channels, dtype=dtype) if biased else None
        starts = torch.rand(2, time) < 0.2 if resets else None
        ends = torch.tensor([time // 2, 0]) if lengths else None
        leaves = carried, signal, weight, bias
        names = ("y", "window", "gradient of window", "of signal", "of weight", "of bias")
        for name, got, expected in zip(
            names, run(False, leaves, starts, ends, silu), run(True, leaves, starts, ends, silu), strict=False
        ):
            assert_close(name, got, expected, dtype)
            assert got.dtype is expected.dtype, name


@pytest.mark.parametrize("resets", [False, True])
def test_dilated_convolutions_are_those_of_pytorch(resets):
    """Of the taps between nothing is read: what is not finite there does no harm."""
    for time, channels, taps, dilation in ((1, 3, 2, 4), (23, 5, 3, 2), (40, 4, 4, 5)):
        steps = (taps - 1) * dilation
        leaves = torch.randn(2, steps, channels), torch.randn(2, time, channels), torch.randn(channels, taps), None
        starts = torch.rand(2, time) < 0.1 if resets else None
        compiled, plain = (run(way, leaves, starts, None, dilation=dilation) for way in (False, True))
        for got, expected in zip(compiled, plain, strict=True):
            assert_close("compiled", got, expected)
        if not resets:
            whole = torch.cat(leaves[:2], 1).mT
            expected = torch.nn.functional.conv1d(whole, leaves[2][:, None], dilation=dilation, groups=channels).mT
            assert_close("y", compiled[0], expected)
    signal = torch.randn(1, 9, 2)
    signal[0, 3] = torch.nan
    y = holding(conv=torch.zeros(1, 4, 2)).convolve("conv", signal, torch.ones(2, 3), dilation=2)
    assert y.isnan().all(-1)[0].nonzero().flatten().tolist() == [3, 5, 7]
    with pytest.raises(InputError, match="dilation is 3; expected a divisor of the 4 steps of 'conv'"):
        holding(conv=torch.zeros(1, 4, 2)).lags("conv", signal, 3)


def test_a_delay_is_as_long_as_its_window():
    signal = torch.randn(2, 7, 3)
    late = holding(late=torch.zeros(2, 4, 3)).delay("late", signal)
    assert_close("late", late, torch.cat([torch.zeros(2, 4, 3), signal[:, :3]], 1))
    assert Past({"late": (3, 0)}, {}, None, None).delay("late", signal) is signal


def mixed(plain, leaves, resets, lengths):
    carried, signal, shares = (t.detach().requires_grad_() for t in leaves)
    past = holding(resets, lengths, plain, shift=carried)
    mixes = torch.stack(past.mix("shift", signal, shares))
    if lengths is not None:
        mixes = torch.where((torch.arange(signal.shape[1]) < lengths[:, None])[..., None], mixes, 0)
    slopes = torch.linspace(-1, 1, mixes.numel()).view_as(mixes)
    total = (mixes.double() * slopes).sum() + past.carry["shift"].double().square().sum()
    return [mixes, past.carry["shift"], *torch.autograd.grad(total, [carried, signal, shares])]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_mixes_equal_those_of_lagged_signals(dtype, resets, lengths):
    for time, channels, mixes in ((0, 2, 2), (1, 3, 1), (2, 3, 2), (17, 5, 3), (40, 9, 6)):
        carried = torch.randn(2, 1, channels).to(torch.float64 if dtype is torch.float64 else torch.float32)
        leaves = carried, torch.randn(2, time, channels, dtype=dtype), torch.rand(mixes, channels, dtype=dtype)
        starts = torch.rand(2, time) < 0.2 if resets else None
        ends = torch.tensor([time // 2, 0]) if lengths else None
        names = ("mixes", "window", "gradient of window", "of signal", "of shares")
        for name, got, expected in zip(
            names, mixed(False, leaves, starts, ends), mixed(True, leaves, starts, ends), strict=True
        ):
            assert_close(name, got, expected, dtype)


def test_a_convolution_of_one_tap_needs_no_window():
    signal, weight, bias = torch.randn(2, 5, 4), torch.randn(4, 1), torch.randn(4)
    for plain in (False, True):
        past = Past({"conv": (4, 0)}, {}, torch.rand(2, 5) < 0.5, torch.tensor([5, 0]), plain)
        y = past.convolve("conv", signal, weight, bias, silu=True)
        assert_close("y", y, torch.nn.functional.silu(signal * weight[:, 0] + bias))
        assert not past.carry


def test_a_mix_passes_nan_on_to_two_time_steps_only():
    signal = torch.randn(1, 6, 4)
    signal[0, 2] = torch.nan
    (mix,) = holding(shift=torch.zeros(1, 1, 4)).mix("shift", signal, torch.full((1, 4), 0.5))
    assert mix.isnan().all(-1).tolist() == [[False, False, True, True, False, False]]
    assert mix.isnan().any(-1).sum() == 2


def test_it_is_the_compiled_loop_that_ran(monkeypatch):
    ran, run_all = [], window.compiled.run_all
    monkeypatch.setattr(window.compiled, "run_all", lambda *args: ran.append(1) or run_all(*args))
    past = holding(conv=torch.zeros(1, 3, 4), shift=torch.zeros(1, 1, 4))
    past.convolve("conv", torch.randn(1, 8, 4), torch.randn(4, 4))
    past.mix("shift", torch.randn(1, 8, 4), torch.randn(2, 4))
    assert ran == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_counts_are_exact_in_every_type(dtype):
    """Of each sequence by itself, cut anywhere, beyond what half types count to."""
    time, period = 900, 2**17
    signal, resets = torch.zeros(2, time, 1, dtype=dtype), torch.rand(2, time) < 0.002
    start = torch.tensor([[1, 2, 1], [0, 0, 0]])  # digits of 1 + 2 * 256 + 65536, and of nothing
    expected, now = torch.empty(2, time), (start * torch.tensor([1, 256, 65536])).sum(1).tolist()
    for t in range(time):
        for row in range(2):
            now[row] = 0 if resets[row, t] else now[row]
            expected[row, t] = now[row]
            now[row] = (now[row] + 1) % period
    state, cut, found = start[:, None].to(dtype), int(torch.randint(1, time, ())), []
    for part in (slice(0, cut), slice(cut, time)):
        past = Past({"n": (3, 1)}, {"n": state}, resets[:, part], None, True)
        found.append(past.count("n", signal[:, part], period))
        state = past.carry["n"]
    assert torch.equal(torch.cat(found, 1).float(), expected)
    assert (state[:, 0].double() @ torch.tensor([1.0, 256, 65536]).double()).tolist() == now
