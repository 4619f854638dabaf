"""Differentiable plasticity: connections that learn while they run, by a rule that gradients have shaped."""

import torch
from torch import nn

from recurra import Lane, Recurrence


class Plastic(Recurrence):
    """A connection is a fixed weight W_ij and a plastic part alpha_ij Hebb_ij, all [D, D]:

        h_t = tanh(W' x_t + b + (W + alpha Hebb_{t-1}) h_{t-1})
        Hebb_t = (1 - eta) Hebb_{t-1} + eta h_t h_{t-1}^T

    Lane: the layer. y_t = h_t. This is the paper's decaying Hebbian rule; eta is learned, and a sigmoid keeps it
    between 0 and 1.

    Source: Differentiable plasticity: training plastic neural networks with backpropagation, Miconi, Clune, Stanley,
    2018, arXiv:1804.02464.
    """

    lane = Lane.LAYER

    def __init__(self, width: int):
        super().__init__(width)
        self.from_x = nn.Linear(width, width)
        self.W = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.alpha = nn.Parameter(0.1 * torch.randn(width, width))
        self.eta = nn.Parameter(torch.tensor(-3.0))

    def start(self):
        return {"h": torch.zeros(self.width), "hebb": torch.zeros(self.width, self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, hebb, x):
        before, eta = h, torch.sigmoid(self.eta)
        h = torch.tanh(x + (self.W + self.alpha * hebb) @ before)
        hebb = (1 - eta) * hebb + eta * torch.outer(h, before)
        return (h, hebb), h
