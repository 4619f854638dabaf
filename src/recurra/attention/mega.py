"""Mega: gated attention over moving averages."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from recurra import options
from recurra.attention.base import Call
from recurra.attention.gated import GatedAttention
from recurra.contract import Paper
from recurra.engines.affine import FreeStep
from recurra.engines.choose import ENGINES, choose
from recurra.engines.gate import without_autocast
from recurra.problem import Lane, Problem, StepInput, cast, compute_dtype, constant
from recurra.windows import Past


class Mega(GatedAttention):
    """h_t = (1 - p a) h_{t-1} + p b x_t,  m_t = silu(sum over n of c h_t / sqrt(N) + d x_t), p = sigmoid(P),
    a = sigmoid(A), in each channel; of m and x `GatedAttention` makes y.

    Lane: the layer; h, P, A, b, c: [D, N], N = `state_size`, d: [D]; keys: [S, Z], Z = `size`, D / 4 by default, and
    values: [S, E], E = `value_size`, 2 D by default, of everything so far, with a `chunk` of the chunk so far.
    Initialisation: as `ema`, all maps normal with deviation 0.02.

    Source: Mega: Moving Average Equipped Gated Attention, Ma et al., 2022, arXiv:2209.10655, and its authors' code,
    whose rotary bias stands for all distances. Departures: the norm is left to what stands around the layer; b has no
    small noise.
    """

    lane = Lane.LAYER
    paper = Paper("Mega: Moving Average Equipped Gated Attention", "Ma et al.", 2022, "2209.10655")

    def __init__(
        self, width: int, size: int | None = None, value_size: int | None = None, state_size: int = 2,
        chunk: int | None = None, softmax: bool = False,
    ):  # fmt: skip
        super().__init__(width, size, value_size, chunk, softmax)
        N = options.count("state_size", state_size)
        self.P, self.A = (nn.Parameter(torch.randn(width, N) * 0.2) for _ in range(2))
        self.B = nn.Parameter((1 - 2 * (torch.arange(N) % 2)).to(self.P.dtype).repeat(width, 1))
        self.C, self.D = nn.Parameter(torch.randn(width, N)), nn.Parameter(torch.randn(width))

    def start(self, like: Tensor) -> dict[str, Tensor]:
        return self.empty(like) | {"h": like.new_zeros(1, *self.P.shape, dtype=compute_dtype(like.dtype))}

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        return {"x": x[:, :, None], "v": silu(self.to_value(x))[:, :, None]}

    def averages(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the averages are made with."""
        P, A, B, C, D = (cast(part, dtype) for part in (self.P, self.A, self.B, self.C, self.D))
        p = torch.sigmoid(P)
        return {"decay": 1 - p * torch.sigmoid(A), "b": p * B, "c": C * C.shape[1] ** -0.5, "d": D}

    def step(self, keys: Tensor, values: Tensor, h: Tensor, present: Tensor, x: Tensor, v: Tensor):
        made = self.averages(h.dtype)
        h = made["decay"] * h + made["b"] * x[:, None]
        m = silu((made["c"] * h).sum(-1) + made["d"] * x)
        q, k, gates = self.asked(m)
        after, y = self.one(keys, values, present, q, k, v, gates)
        return (*after, h), y

    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        x, h = call.inputs["x"][:, :, 0], call.state["h"][:, 0]
        problem = Problem(
            step=FreeStep("averages", average),
            inputs={"x": StepInput(x)} | {name: constant(part) for name, part in self.averages(h.dtype).items()},
            state={"h": h},
            start={"h": h.new_zeros(self.P.shape)},
            resets=call.position == 0,  # a sequence that starts has nothing to lose
            lengths=call.ends,
            batch=x.shape[0],
            time=x.shape[1],
            lanes=self.width,
            lane=Lane.CHANNEL,
            dtype=x.dtype,
            device=x.device,
        )
        with without_autocast(x.device):
            rollout = ENGINES[choose(problem)].run(problem)
        q, k, gates = self.asked(rollout.y[:, :, None])
        y, new = self.all(call, q, k, call.inputs["v"], gates)
        return y, new | {"h": rollout.state["h"][:, None]}


def average(states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    """A time step of one channel."""
    h = inputs["decay"] * states[0] + inputs["b"] * inputs["x"]
    return (h,), silu((inputs["c"] * h).sum() + inputs["d"] * inputs["x"])
