"""The gated FSMN with dilated taps: the recurrence of MossFormer2, which has none but windows."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.windows import Past


class GatedFSMN(Recurrence):
    """u_t, v_t = s_t + conv(s)_t,  s_t = silu(W norm(x_t) + b) with maps, norms and convolutions of their own
    p_t = V relu(W_p u_t + b_p),  f_t = prelu(sum over i of a_i p_{t-i}),  g_t = prelu(sum over i of b_i f_{t-2i} +
    c_i p_{t-2i}),  y_{t+d} = x_t + v_t (u_t + g_t),  i from -A to `taps` - 1, A = `ahead`, d = 3 A.

    What comes out is d = `delay` time steps late, and the first d of it know of no x_t. Lane: a channel, whose states
    are the last values of p and of f, the newest first; a, b, c: [D, A + `taps`]; prelu has a slope for each channel.
    conv is depthwise, of `kernel` taps; norm is LayerNorm; W_p: [hidden, D].

    Source: MossFormer2: Combining Transformer and RNN-Free Recurrent Network for Enhanced Time-Domain Monaural Speech
    Separation, Zhao, Ma, et al., 2023, arXiv:2312.11825. Departures: causal by default, where the paper's taps
    are on both sides; f and g are not normed over all time steps; taps of one channel see no other.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "MossFormer2: Combining Transformer and RNN-Free Recurrent Network", "Zhao, Ma, et al.", 2023, "2312.11825"
    )

    def __init__(self, width: int, hidden: int | None = None, taps: int = 8, kernel: int = 8, ahead: int = 0):
        super().__init__(width)
        hidden = width if hidden is None else options.count("hidden", hidden)
        kernel, self.delay = options.count("kernel", kernel), 3 * options.whole("ahead", ahead)
        self.ahead, self.taps = ahead, ahead + options.count("taps", taps)
        self.windows = {name: (width, kernel - 1) for name in ("u", "v")}
        self.windows |= {f"late_{name}": (width, self.delay) for name in "xuv"}
        self.norm, self.to_gates = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)]), nn.ModuleList()
        self.to_gates.extend([Linear(width, width), Linear(width, width)])
        bound, reach = kernel**-0.5, self.taps**-0.5
        self.conv_weight = nn.Parameter(torch.empty(2, width, kernel).uniform_(-bound, bound))
        self.to_hidden, self.to_memory = Linear(width, hidden), Linear(hidden, width, bias=False)
        self.tap_weight = nn.Parameter(torch.empty(3, width, self.taps).uniform_(-reach, reach))
        self.slopes = nn.Parameter(torch.full((2, width), 0.25))

    def start(self) -> dict[str, Tensor]:
        # Twice as far as the taps of f and of p, which skip every other time step; of one tap a value nothing reads.
        spans = {"p": 2 * self.taps - 2 + self.ahead, "f": 2 * self.taps - 2}
        return {name: torch.zeros(self.width, max(span, 1)) for name, span in spans.items()}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        u, v = (
            signal + past.convolve(name, signal, weight)
            for name, weight, norm, to in zip("uv", self.conv_weight, self.norm, self.to_gates, strict=True)
            for signal in (nn.functional.silu(to(norm(x))),)
        )
        read = {"new": self.to_memory(torch.relu(self.to_hidden(u)))}
        read = {n: past.delay(f"late_{n}", part) for n, part in (("x", x), ("u", u), ("v", v))} | read
        fixed = dict(zip(("a", "b", "c", "slope_f", "slope_g"), (*self.tap_weight, *self.slopes), strict=True))
        return read | {name: constant(part) for name, part in fixed.items()}

    def step(
        self, p: Tensor, f: Tensor, x: Tensor, u: Tensor, v: Tensor, new: Tensor, a: Tensor, b: Tensor, c: Tensor,
        slope_f: Tensor, slope_g: Tensor,
    ):  # fmt: skip
        p = torch.cat([new[None], p])
        f = torch.cat([bent((a * p[: self.taps]).sum(), slope_f)[None], f])
        last = 2 * self.taps - 1
        g = bent((b * f[:last:2] + c * p[self.ahead : self.ahead + last : 2]).sum(), slope_g)
        return (p[:-1], f[:-1]), x + v * (u + g)


def bent(value: Tensor, slope: Tensor) -> Tensor:
    """PReLU of one number."""
    return torch.where(value > 0, value, slope * value)
