"""Recurrences of the literature whose state is a memory of many entries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.own.written import Written, batch_of, loop
from recurra import Lane, Linear


class StackRNN(Written):
    """A network with a stack of 16 numbers that it pushes to and pops from, softly.

    Source: Inferring Algorithmic Patterns with Stack-Augmented Recurrent Nets, Joulin, Mikolov, 2015,
    arXiv:1503.01007.
    """

    title, lane = "stack RNN, 16 deep", Lane.LAYER

    def __init__(self, width, depth=16, seen=2):
        super().__init__(width)
        self.depth, self.seen = depth, seen
        self.from_x = Linear(width, width)
        self.from_h = Linear(width, width, bias=False)
        self.from_stack = Linear(seen, width, bias=False)
        self.to_action = Linear(width, 3)
        self.to_push = Linear(width, 1)

    def start(self):
        return {"h": torch.zeros(self.width), "stack": torch.zeros(self.depth)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, stack, x):
        h = torch.sigmoid(x + self.from_h(h) + self.from_stack(stack[..., : self.seen]))
        push, pop, stay = torch.softmax(self.to_action(h), -1).chunk(3, -1)
        pushed = torch.cat([torch.sigmoid(self.to_push(h)), stack[..., :-1]], -1)
        popped = torch.cat([stack[..., 1:], torch.zeros_like(stack[..., :1])], -1)
        stack = push * pushed + pop * popped + stay * stack
        return (h, stack), h


class FastWeights(Written):
    """A matrix of fast weights that decays and learns by Hebb's rule. Source: Using Fast Weights to Attend to the
    Recent Past, Ba, Hinton, Mnih, Leibo, Ionescu, 2016, arXiv:1610.06258."""

    title, lane = "fast weights, layer norm", Lane.LAYER

    def __init__(self, width, decay=0.95, rate=0.5):
        super().__init__(width)
        self.decay, self.rate = decay, rate
        self.from_x = Linear(width, width)
        self.from_h = Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def start(self):
        return {"h": torch.zeros(self.width), "A": torch.zeros(self.width, self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, A, x):
        A = self.decay * A + self.rate * torch.outer(h, h)
        slow = x + self.from_h(h)
        h = torch.relu(slow)
        h = torch.relu(self.norm(slow + A @ h))
        return (h, A), h

    def by_hand(self, x):
        def step(state, x):
            h, A = state
            A = self.decay * A + self.rate * h[:, :, None] * h[:, None]
            slow = x + self.from_h(h)
            h = torch.relu(self.norm(slow + torch.bmm(A, torch.relu(slow)[..., None])[..., 0]))
            return (h, A), h

        return loop(step, batch_of(self, x), self.from_x(x))


class LinearAttention(Written):
    """Heads of normalised linear attention. Source: Transformers are RNNs, Katharopoulos, Vyas, Pappas, Fleuret, 2020,
    arXiv:2006.16236."""

    title, lane = "linear attention, normalised", Lane.HEAD

    def __init__(self, width, heads=4):
        super().__init__(width)
        self.heads = heads
        self.to_qkv = Linear(width, 3 * width)

    def start(self):
        size = self.width // self.heads
        return {"S": torch.zeros(self.heads, size, size), "z": torch.zeros(self.heads, size)}

    def inputs(self, x):
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.to_qkv(x).chunk(3, -1))
        return {"q": 1 + F.elu(q), "k": 1 + F.elu(k), "v": v}

    def step(self, S, z, q, k, v):
        S, z = S + torch.outer(v, k), z + k
        return (S, z), S @ q / (z @ q + 1e-6)

    def by_hand(self, x):
        def step(state, q, k, v):
            S, z = state
            S, z = S + v[..., None] * k[..., None, :], z + k
            return (S, z), (S @ q[..., None])[..., 0] / ((z * q).sum(-1, keepdim=True) + 1e-6)

        return loop(step, batch_of(self, x), *self.inputs(x).values()).flatten(2)


class TestTimeTraining(Written):
    """Heads whose state is a model, trained while they run by gradients of their own loss, |tanh(W k) - v|^2 / 2.

    Source: Learning to (Learn at Test Time): RNNs with Expressive Hidden States, Sun et al., 2024, arXiv:2407.04620.
    """

    title, lane = "test-time training, torch.func.grad", Lane.HEAD

    def __init__(self, width, heads=4, rate=0.3):
        super().__init__(width)
        self.heads, self.rate = heads, rate
        self.to_qkv = Linear(width, 3 * width)

    def start(self):
        size = self.width // self.heads
        return {"W": torch.zeros(self.heads, size, size)}

    def inputs(self, x):
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.to_qkv(x).chunk(3, -1))
        return {"q": q, "k": k, "v": v}

    def step(self, W, q, k, v):
        W = W - self.rate * torch.func.grad(lambda W: (torch.tanh(W @ k) - v).square().sum() / 2)(W)
        return W, W @ q

    def by_hand(self, x):
        def step(W, q, k, v):
            found = torch.tanh((W @ k[..., None])[..., 0])
            slope = (found - v) * (1 - found**2)
            W = W - self.rate * slope[..., None] * k[..., None, :]
            return W, (W @ q[..., None])[..., 0]

        return loop(step, batch_of(self, x)[0], *self.inputs(x).values()).flatten(2)


class HopfieldRing(Written):
    """A ring of the last 16 patterns, asked as a Hopfield network. Source: Hopfield Networks is All You Need, Ramsauer
    et al., 2020, arXiv:2008.02217."""

    title, lane = "Hopfield ring memory", Lane.LAYER

    def __init__(self, width, slots=16):
        super().__init__(width)
        self.slots = slots
        self.to_query = Linear(width, width)
        self.to_pattern = Linear(width, width)

    def start(self):
        return {"M": torch.zeros(self.slots, self.width)}

    def inputs(self, x):
        return {"query": self.to_query(x) * self.width**-0.5, "pattern": self.to_pattern(x)}

    def step(self, M, query, pattern):
        M = torch.cat([pattern[..., None, :], M[..., :-1, :]], -2)
        shares = torch.softmax((M * query[..., None, :]).sum(-1), -1)
        return M, (shares[..., None] * M).sum(-2)


RECURRENCES = [StackRNN, FastWeights, LinearAttention, TestTimeTraining, HopfieldRing]
