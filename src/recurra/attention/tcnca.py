"""TCNCA: gated attention in chunks over a network of dilated convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from recurra import options
from recurra.attention.base import Call
from recurra.attention.gated import GatedAttention
from recurra.contract import Paper
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.windows import Past


class TCNCA(GatedAttention):
    """m = s^depth, s^0 = x, s^{j+1}_t = relu(s^j_t + e_t),  e_t = relu(sum over i < kernel of E_i c_{t - i f^j}),
    c_t = relu(sum over i < kernel of C_i s^j_{t - i f^j}), f = `factor`; of m and x `GatedAttention` makes y.

    Lane: the layer; E_i, C_i: [D, D], with biases, of each block; keys: [S, Z], Z = `size`, D / 4 by default, and
    values: [S, E], E = `value_size`, 2 D by default, of the chunk so far. m sees `receptive_field` time steps.

    Source: TCNCA: Temporal Convolution Network with Chunked Attention for Scalable Sequence Processing, Terzic,
    Hersche, Karunaratne, Benini, Sebastian, Rahimi, 2023, arXiv:2312.05605, which has a dilated convolutional network
    in the place of Mega's averages. Its blocks here are those of Bai, Kolter, Koltun, 2018, arXiv:1803.01271, without
    dropout and norms of weights.
    """

    lane = Lane.LAYER
    paper = Paper("TCNCA: Temporal Convolution Network with Chunked Attention", "Terzic et al.", 2023, "2312.05605")

    def __init__(
        self, width: int, size: int | None = None, value_size: int | None = None, depth: int = 3, kernel: int = 3,
        factor: int = 4, chunk: int = 64, softmax: bool = False,
    ):  # fmt: skip
        super().__init__(width, size, value_size, options.count("chunk", chunk), softmax)
        kernel, factor = options.count("kernel", kernel), options.count("factor", factor)
        self.dilations = [factor**level for level in range(options.count("depth", depth, 17))]
        self.receptive_field = 1 + 2 * (kernel - 1) * sum(self.dilations)
        options.count("the receptive field of depth, kernel and factor", self.receptive_field, 2**20)
        self.taps = nn.ModuleList(Linear(kernel * width, width) for _ in range(2 * depth))
        steps = [(kernel - 1) * dilation for dilation in self.dilations for _ in range(2)]
        self.windows = {f"conv{number}": (width, count) for number, count in enumerate(steps)}

    def start(self, like: Tensor) -> dict[str, Tensor]:
        return self.empty(like)

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        m = x
        for level, dilation in enumerate(self.dilations):
            signal = m
            for number in (2 * level, 2 * level + 1):
                lags = past.lags(f"conv{number}", signal, dilation)
                signal = torch.relu(self.taps[number](torch.cat(lags, -1)))
            m = torch.relu(m + signal)
        q, k, gates = self.asked(m)
        read = {"q": q, "k": k, "v": silu(self.to_value(x)), "gates": gates}
        return {name: part[:, :, None] for name, part in read.items()}

    def step(
        self, keys: Tensor, values: Tensor, present: Tensor, q: Tensor, k: Tensor, v: Tensor, gates: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        return self.one(keys, values, present, q, k, v, gates)

    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        return self.all(call, **call.inputs)
