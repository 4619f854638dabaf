"""Leaky integrate-and-fire neurons, trained through their spikes by a surrogate gradient."""

import torch
from torch import nn

from recurra import Lane, Recurrence, constant


class Spike(torch.autograd.Function):
    """1 where u > 0, else 0; its gradient is taken to be 1 / (1 + 10 |u|)^2."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u):
        return (u > 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (1 + 10 * u.abs()) ** 2


class LIF(Recurrence):
    """A neuron per channel: its current i and potential u leak, and a spike s takes the threshold 1 from u.

        i_t = alpha i_{t-1} + W x_t,    u_t = beta (u_{t-1} - s_{t-1}) + (1 - beta) i_t,    s_t = [u_t > 1]

    Lane: a channel. y_t = s_t. alpha and beta are learned, between 0 and 1 by a sigmoid. Backward, s is taken for a
    fast sigmoid of u - 1.

    Source: Surrogate Gradient Learning in Spiking Neural Networks, Neftci, Mostafa, Zenke, 2019, arXiv:1901.09948.
    """

    lane = Lane.CHANNEL

    def __init__(self, width: int):
        super().__init__(width)
        self.from_x = nn.Linear(width, width)
        self.leaks = nn.Parameter(2 + torch.randn(2, width))

    def start(self):
        return {"i": torch.zeros(self.width), "u": torch.zeros(self.width), "s": torch.zeros(self.width)}

    def inputs(self, x):
        alpha, beta = torch.sigmoid(self.leaks)
        return {"x": 4 * self.from_x(x), "alpha": constant(alpha), "beta": constant(beta)}

    def step(self, i, u, s, x, alpha, beta):
        i = alpha * i + x
        u = beta * (u - s) + (1 - beta) * i
        s = Spike.apply(u - 1)
        return (i, u, s), s
