"""Gated cells of the literature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.own.written import Written, batch_of, loop
from recurra import Lane, Linear, constant


class PeepholeLSTM(Written):
    """An LSTM whose gates see the cells, and whose output is projected to half its width.

    Source: Long Short-Term Memory Based Recurrent Neural Network Architectures for Large Vocabulary Speech Recognition,
    Sak, Senior, Beaufays, 2014, arXiv:1402.1128.
    """

    title, lane = "peephole LSTM, projected", Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.from_x = Linear(width, 4 * width)
        self.from_r = Linear(width // 2, 4 * width, bias=False)
        self.peepholes = nn.Parameter(0.1 * torch.randn(3, width))
        self.project = Linear(width, width // 2, bias=False)

    def start(self):
        return {"r": torch.zeros(self.width // 2), "c": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, r, c, x):
        i, f, g, o = (x + self.from_r(r)).chunk(4, -1)
        at_i, at_f, at_o = self.peepholes
        i, f = torch.sigmoid(i + at_i * c), torch.sigmoid(f + at_f * c)
        c = f * c + i * torch.tanh(g)
        r = self.project(torch.sigmoid(o + at_o * c) * torch.tanh(c))
        return (r, c), r


class LayerNormLSTM(Written):
    """An LSTM with layer norms before its gates and behind its cells.

    Source: Layer Normalization, Ba, Kiros, Hinton, 2016, arXiv:1607.06450.
    """

    title, lane = "layer-norm LSTM", Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.from_x = nn.Sequential(Linear(width, 4 * width, bias=False), nn.LayerNorm(4 * width))
        self.from_h = nn.Sequential(Linear(width, 4 * width, bias=False), nn.LayerNorm(4 * width))
        self.norm = nn.LayerNorm(width)

    def start(self):
        return {"h": torch.zeros(self.width), "c": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, c, x):
        i, f, g, o = (x + self.from_h(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self.norm(c))
        return (h, c), h


class SRU(Written):
    """Gates see one channel of the state. Source: Simple Recurrent Units for Highly Parallelizable Recurrence, Lei,
    Zhang, Wang, Dai, Artzi, 2017, arXiv:1709.02755."""

    title, lane = "SRU", Lane.CHANNEL

    def __init__(self, width):
        super().__init__(width)
        self.from_x = Linear(width, 3 * width)
        self.of_c = nn.Parameter(torch.randn(2, width))

    def start(self):
        return {"c": torch.zeros(self.width)}

    def inputs(self, x):
        value, f, r = self.from_x(x).chunk(3, -1)
        return {"x": x, "value": value, "f": f, "r": r, "of_f": constant(self.of_c[0]), "of_r": constant(self.of_c[1])}

    def step(self, c, x, value, f, r, of_f, of_r):
        f, r = torch.sigmoid(f + of_f * c), torch.sigmoid(r + of_r * c)
        c = f * c + (1 - f) * value
        return c, r * c + (1 - r) * x


class QRNN(Written):
    """Gates of this and the last input, and fo-pooling. Source: Quasi-Recurrent Neural Networks, Bradbury, Merity,
    Xiong, Socher, 2016, arXiv:1611.01576."""

    title, lane = "QRNN, fo-pooling", Lane.CHANNEL

    def __init__(self, width):
        super().__init__(width)
        self.windows = {"last": (width, 1)}
        self.convolve = Linear(2 * width, 3 * width)

    def start(self):
        return {"c": torch.zeros(self.width)}

    def inputs(self, x, past):
        z, f, o = self.convolve(torch.cat(past.lags("last", x), -1)).chunk(3, -1)
        return {"z": z, "f": f, "o": o}

    def step(self, c, z, f, o):
        f = torch.sigmoid(f)
        c = f * c + (1 - f) * torch.tanh(z)
        return c, torch.sigmoid(o) * c

    def by_hand(self, x):
        both = torch.cat([x, F.pad(x, (0, 0, 1, 0))[:, :-1]], -1)
        return loop(self.step, x.new_zeros(len(x), self.width), *self.convolve(both).chunk(3, -1))


class MGU(Written):
    """A GRU with one gate. Source: Minimal Gated Unit for Recurrent Neural Networks, Zhou, Wu, Zhang, Zhou, 2016,
    arXiv:1603.09420."""

    title, lane = "MGU", Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.from_x = Linear(width, 2 * width)
        self.to_gate = Linear(width, width, bias=False)
        self.to_candidate = Linear(width, width, bias=False)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        f, c = self.from_x(x).chunk(2, -1)
        return {"f": f, "c": c}

    def step(self, h, f, c):
        f = torch.sigmoid(f + self.to_gate(h))
        h = (1 - f) * h + f * torch.tanh(c + self.to_candidate(f * h))
        return h, h


class SkipGRU(Written):
    """A GRU that decides, by a rounded probability with a straight-through gradient, whether to move at all.

    Source: Skip RNN: Learning to Skip State Updates in Recurrent Neural Networks, Campos, Jou, Giro-i-Nieto, Torres,
    Chang, 2017, arXiv:1708.06834.
    """

    title, lane = "skip GRU, straight-through", Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.gru = nn.GRUCell(width, width)
        self.to_update = Linear(width, 1)

    def start(self):
        return {"h": torch.zeros(self.width), "likely": torch.ones(1)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, likely, x):
        update = likely + (torch.round(likely) - likely).detach()
        h = update * self.gru(x, h) + (1 - update) * h
        change = torch.sigmoid(self.to_update(h))
        likely = update * change + (1 - update) * (likely + torch.minimum(change, 1 - likely))
        return (h, likely), h


class RecurrentHighway(Written):
    """Three layers with highways within a time step. Source: Recurrent Highway Networks, Zilly, Srivastava, Koutnik,
    Schmidhuber, 2016, arXiv:1607.03474."""

    title, lane = "recurrent highway, depth 3", Lane.LAYER

    def __init__(self, width, depth=3):
        super().__init__(width)
        self.from_x = Linear(width, 2 * width)
        self.layers = nn.ModuleList(Linear(width, 2 * width) for _ in range(depth))

    def start(self):
        return {"s": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, s, x):
        for i, layer in enumerate(self.layers):
            h, t = (layer(s) + x if i == 0 else layer(s)).chunk(2, -1)
            s = s + torch.sigmoid(t) * (torch.tanh(h) - s)
        return s, s


class HyperLSTM(Written):
    """A small LSTM scales the rows of a large one's weights, and gives its biases.

    Source: HyperNetworks, Ha, Dai, Le, 2016, arXiv:1609.09106; without its layer norms.
    """

    title, lane = "HyperLSTM", Lane.LAYER

    def __init__(self, width, small=16, embedding=4):
        super().__init__(width)
        self.small = small
        self.hyper_x = Linear(width, 4 * small)
        self.hyper_h = Linear(width + small, 4 * small, bias=False)
        self.embed = Linear(small, 12 * embedding)
        self.scale = nn.Parameter(0.3 * torch.randn(12, width, embedding))
        self.from_x = Linear(width, 4 * width, bias=False)
        self.from_h = Linear(width, 4 * width, bias=False)

    def start(self):
        small, large = torch.zeros(self.small), torch.zeros(self.width)
        return {"h": large, "c": large, "hyper_h": small, "hyper_c": small}

    def inputs(self, x):
        return {"x": self.from_x(x), "hyper_x": self.hyper_x(x)}

    def step(self, h, c, hyper_h, hyper_c, x, hyper_x):
        gates = hyper_x + self.hyper_h(torch.cat([h, hyper_h], -1))
        hyper_h, hyper_c = lstm(gates, hyper_c)
        embedded = self.embed(hyper_h).unflatten(-1, (12, -1))
        of_h, of_x, bias = torch.einsum("kde,...ke->...kd", self.scale, embedded).flatten(-2).chunk(3, -1)
        h, c = lstm(of_h * self.from_h(h) + of_x * x + bias, c)
        return (h, c, hyper_h, hyper_c), h


def lstm(gates, c, axis=-1):
    """The next h and c of an LSTM, with its gates one after the other along an axis."""
    i, f, g, o = gates.chunk(4, axis)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


class MultiplicativeLSTM(Written):
    """The gates read a product of maps of input and state. Source: Multiplicative LSTM for sequence modelling, Krause,
    Lu, Murray, Renals, 2016, arXiv:1609.07959."""

    title, lane = "multiplicative LSTM", Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.from_x = Linear(width, 5 * width)
        self.between = Linear(width, width, bias=False)
        self.from_m = Linear(width, 4 * width, bias=False)

    def start(self):
        return {"h": torch.zeros(self.width), "c": torch.zeros(self.width)}

    def inputs(self, x):
        gates, m = self.from_x(x).split([4 * self.width, self.width], -1)
        return {"gates": gates, "m": m}

    def step(self, h, c, gates, m):
        h, c = lstm(gates + self.from_m(m * self.between(h)), c)
        return (h, c), h


class CfC(Written):
    """A liquid network in closed form. Source: Closed-form Continuous-time Neural Models, Hasani et al., 2021,
    arXiv:2106.13898; one unit of time between steps."""

    title, lane = "CfC", Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.backbone = Linear(2 * width, width)
        self.heads = Linear(width, 4 * width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        z = 1.7159 * torch.tanh(0.666 * self.backbone(torch.cat([x, h], -1)))
        first, second, speed, shift = self.heads(z).chunk(4, -1)
        at = torch.sigmoid(speed + shift)
        h = torch.tanh(first) * (1 - at) + at * torch.tanh(second)
        return h, h


class DenseExperts(Written):
    """Experts of which the two with the highest score are mixed, the others multiplied by zero.

    Source: Outrageously Large Neural Networks, Shazeer et al., 2017, arXiv:1701.06538.
    """

    title, lane = "mixture of experts, dense", Lane.LAYER

    def __init__(self, width, experts=4):
        super().__init__(width)
        self.sizes = [experts, experts * width]
        self.from_x = Linear(width, sum(self.sizes))
        self.from_h = Linear(width, sum(self.sizes), bias=False)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, x):
        scores, experts = (x + self.from_h(h)).split(self.sizes, -1)
        least = torch.topk(scores, 2, -1).values[..., -1:]
        shares = torch.softmax(scores.masked_fill(scores < least, -torch.inf), -1)
        h = (shares[..., None] * torch.tanh(experts).unflatten(-1, (-1, self.width))).sum(-2)
        return h, h


class ConvLSTM(Written):
    """An LSTM of pictures: its maps are convolutions, 3 x 3, of 4 channels of 4 x 4 pixels each at width 64.

    Source: Convolutional LSTM Network, Shi, Chen, Wang, Yeung, Wong, Woo, 2015, arXiv:1506.04214; without peepholes.
    """

    title, lane = "ConvLSTM", Lane.LAYER

    def __init__(self, width, channels=4):
        super().__init__(width)
        side = round((width // channels) ** 0.5)
        self.size = (channels, side, side)
        self.from_x = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.from_h = nn.Conv2d(channels, 4 * channels, 3, padding=1, bias=False)

    def start(self):
        return {"h": torch.zeros(self.size), "c": torch.zeros(self.size)}

    def inputs(self, x):
        return {"x": self.from_x(x.reshape(-1, *self.size)).unflatten(0, x.shape[:2])}

    def step(self, h, c, x):
        h, c = lstm(x + self.from_h(h), c, 0)
        return (h, c), h

    def by_hand(self, x):
        def step(state, x):
            h, c = lstm(x + self.from_h(state[0]), state[1], 1)
            return (h, c), h

        return loop(step, batch_of(self, x), self.inputs(x)["x"]).flatten(2)


RECURRENCES = [PeepholeLSTM, LayerNormLSTM, SRU, QRNN, MGU, SkipGRU, RecurrentHighway, HyperLSTM, MultiplicativeLSTM,
               CfC, DenseExperts, ConvLSTM]  # fmt: skip
