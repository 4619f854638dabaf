"""Looking back a few time steps while preparing inputs: short causal convolutions and token shifts.

A layer that needs it declares `windows = {name: (channels, steps)}` and its `inputs(x, past)` asks `past`.
The window, the last `steps` values of a signal, is part of the layer's state, so that cutting a sequence
anywhere, packing several into one row, and streaming give what one whole call gives. A window of no steps, a
convolution of one tap, remembers nothing and has no entry in the state.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurra.engines.kernels import window
from recurra.errors import InputError
from recurra.problem import compute_dtype

DIGIT = 256
"""The base of counts: every type holds all whole numbers up to it."""


class Past:
    """The windows of one call: holds those carried in, gives lagged signals, collects those to carry out.

    With `plain`, convolutions are sums of lagged signals; otherwise the compiled loop runs them where it can.

    Args:
        windows: names to (channels, steps), as the layer declares them.
        state: the layer's state; has an entry [B, steps, channels] for every window of at least one step.
    """

    def __init__(
        self,
        windows: Mapping[str, tuple[int, int]],
        state: Mapping[str, Tensor],
        resets: Tensor | None,
        lengths: Tensor | None,
        plain: bool = False,
    ):
        self._windows = windows
        self._carried = {name: state[name] if steps else None for name, (_, steps) in windows.items()}
        self._resets, self._lengths, self._plain = resets, lengths, plain
        # Segment number of every time step; what was carried in belongs to segment 0.
        self._segment = None if resets is None else resets.cumsum(1)
        self.carry: dict[str, Tensor] = {}

    def lags(self, name: str, signal: Tensor, dilation: int = 1) -> list[Tensor]:
        """`signal` [B, T, channels] delayed by 0, `dilation`, 2 `dilation`, ..., steps; zero before its sequence."""
        carried = self._window("lags", name, signal, dilation)
        if carried is None:
            return [signal]
        steps, time = carried.shape[1], signal.shape[1]
        extended = torch.cat([carried.to(signal.dtype), signal], 1)
        self.carry[name] = self._last(extended, steps).to(carried.dtype)
        lags = range(0, steps + 1, dilation)
        delayed = [extended[:, steps - lag : steps - lag + time] for lag in lags]
        if self._segment is None:
            return delayed
        segment = torch.nn.functional.pad(self._segment, (steps, 0))
        return [
            torch.where((segment[:, steps - lag : steps - lag + time] == self._segment)[..., None], value, 0)
            for lag, value in zip(lags, delayed, strict=True)
        ]

    def delay(self, name: str, signal: Tensor) -> Tensor:
        """`signal` [B, T, channels] as late as its window has steps: what goes beside a look ahead by so many."""
        carried = self._window("delay", name, signal)
        return signal if carried is None else self.lags(name, signal, carried.shape[1])[-1]

    def mix(self, name: str, signal: Tensor, shares: Tensor) -> list[Tensor]:
        """(1 - share) * x_t + share * x_{t-1} of a signal [B, T, channels], for every row of `shares` [n, channels]."""
        carried = self._window("mix", name, signal)
        if not self._plain and signal.shape[1] > 1 and carried is not None:
            compiled = window.mix(carried, signal, shares, self._resets, self._lengths)
            if compiled is not None:
                mixes, self.carry[name] = compiled
                return mixes
        now, before = self.lags(name, signal)
        change = before - now
        return [torch.addcmul(now, share, change).to(signal.dtype) for share in shares]

    def convolve(
        self, name: str, signal: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False,
        dilation: int = 1,
    ) -> Tensor:  # fmt: skip
        """Depthwise causal convolution of [B, T, channels] with `weight` [channels, steps / dilation + 1], the last tap
        for now, and, as most layers have it, SiLU of the result."""
        carried = self._window("convolve", name, signal, dilation)
        size = [signal.shape[2], self._windows[name][1] // dilation + 1]
        if list(weight.shape) != size:
            raise InputError(
                f"past.convolve: weight is {list(weight.shape)}; expected {size}, [channels, steps / dilation + 1]"
            )
        if carried is not None and self._resets is None and self._lengths is None and signal.shape[1] == 1:
            return self._convolve_one(name, carried, signal, weight, bias, silu, dilation)
        if carried is not None and not self._plain:
            compiled = window.convolve(carried, signal, weight, bias, self._resets, self._lengths, silu)
            if compiled is not None:
                y, self.carry[name] = compiled
                return y
        delayed = self.lags(name, signal, dilation)
        taps = weight.to(compute_dtype(signal.dtype)).unbind(-1)
        result = delayed[0] * taps[-1] if bias is None else delayed[0] * taps[-1] + bias
        for lag in range(1, len(delayed)):
            result = result + delayed[lag] * taps[-1 - lag]
        return (torch.nn.functional.silu(result) if silu else result).to(signal.dtype)

    def count(self, name: str, signal: Tensor, period: int) -> Tensor:
        """How many time steps of its own sequence lie before each, modulo `period`, [B, T]; `signal` [B, T, ...] says
        how many there are. The window is (n, 1), n digits of the count to base `DIGIT`, which every type holds."""
        digits = self._windows[name][0] if name in self._windows else 1
        carried = self._window("count", name, signal[..., :1].expand(-1, -1, digits))
        assert carried is not None
        time, wide = signal.shape[1], compute_dtype(carried.dtype)
        before: Tensor = sum(carried[:, :, n].detach().to(wide).round() * DIGIT**n for n in range(digits))
        steps = torch.arange(time, dtype=wide, device=before.device)
        starts = -before.expand(-1, time + 1)  # of the sequence that goes on at each time step, and after the last
        if self._resets is not None:
            begun = torch.where(self._resets, steps, -torch.inf)
            starts = torch.cat([-before, begun], 1).cummax(1).values
        ends = torch.full_like(before, time) if self._lengths is None else self._lengths[:, None]
        last = (ends - starts.gather(1, ends.long())) % period
        places = [torch.floor(last / DIGIT**n) % DIGIT for n in range(digits)]
        self.carry[name] = torch.stack(places, -1).to(carried.dtype)
        return (steps - starts[:, 1:]) % period

    def _window(self, method: str, name: str, signal: Tensor, dilation: int = 1) -> Tensor | None:
        """What is remembered of a window, if anything is."""
        if name not in self._windows:
            raise InputError(f"past.{method}: there is no window {name!r}; expected one of {list(self._windows)}")
        channels, steps = self._windows[name]
        if signal.dim() != 3 or signal.shape[2] != channels:
            raise InputError(
                f"past.{method}: signal is {list(signal.shape)}; expected [B, T, {channels}], as windows[{name!r}] says"
            )
        if not isinstance(dilation, int) or dilation < 1 or steps % dilation:
            raise InputError(
                f"past.{method}: dilation is {dilation!r}; expected a divisor of the {steps} steps of {name!r}"
            )
        return self._carried[name]

    def _convolve_one(
        self, name: str, carried: Tensor, signal: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, dilation: int
    ) -> Tensor:
        """One time step, in as few operations as it can be."""
        whole = torch.cat([carried, signal.to(carried.dtype)], 1)
        self.carry[name] = whole[:, 1:]
        result = torch.linalg.vecdot(whole[:, ::dilation], weight.t().to(carried.dtype), dim=1)
        result = result if bias is None else result + bias
        return (torch.nn.functional.silu(result) if silu else result)[:, None].to(signal.dtype)

    def _last(self, extended: Tensor, steps: int) -> Tensor:
        """The last `steps` values of every sequence, zero where they lie before its start."""
        batch, time = extended.shape[0], extended.shape[1] - steps
        if self._lengths is None and self._segment is None:
            # A copy, so that the whole signal is not kept alive.
            return extended[:, time:].clone()
        ends = torch.full((batch,), time, device=extended.device) if self._lengths is None else self._lengths
        index = ends[:, None] + torch.arange(steps, device=extended.device)
        last = extended.gather(1, index[..., None].expand(-1, -1, extended.shape[2]))
        if self._segment is None:
            return last
        segment = torch.nn.functional.pad(self._segment, (steps, 0)).gather(1, index)
        now = torch.nn.functional.pad(self._segment, (1, 0)).gather(1, ends[:, None])
        return torch.where((segment == now)[..., None], last, 0)
