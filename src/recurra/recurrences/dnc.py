"""The differentiable neural computer: a memory whose free places it knows, and the order in which they were written."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class DNC(Recurrence):
    """h_t, c_t = LSTM((x_t, r_{t-1}), h_{t-1}, c_{t-1});  of h_t, the write head's k, beta, e, v, a, g and of each read
    head k, beta, f and three modes;  look(k, beta) = softmax(beta cos(k, M_i))
    u_t = (u + w - u w) prod over heads of (1 - f q),  of t - 1;  free_i = (1 - u_i) prod over j before i of u_j
    w_t = g (a free + (1 - a) look(k, beta)),  M_t = M (1 - w e^T) + w v^T
    L_t[i, j] = (1 - w_i - w_j) L[i, j] + w_i p_j, 0 for i = j;  p_t = (1 - sum of w) p + w
    q_t = m_1 L^T q + m_2 look(k, beta) + m_3 L q, r_t = q M_t for each read head;  y_t = W_h h_t + W_r r_t.

    Lane: the layer, h and c: [H], M: [slots, W], W = `slot`; u, w, p: [slots], L: [slots, slots], q: [heads, slots], r:
    [heads, W], all zero at first but M, which is `memory`, trained. Slot j is before i if u_j is less, or
    as much and j < i. `control` makes of h_t e, a, g and f by sigmoid, beta by 1 + softplus, m by softmax.

    Source: Hybrid computing using a neural network with dynamic external memory, Graves et al., Nature 538, 2016.
    Departure: M starts at zero there, and of slots that are all alike rounding would say which is the freest.
    """

    lane = Lane.LAYER
    paper = Paper("Hybrid computing using a neural network with dynamic external memory", "Graves et al.", 2016)

    def __init__(self, width: int, hidden: int | None = None, slots: int = 16, slot: int = 8, heads: int = 1):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        W, R = options.count("slot", slot), options.count("heads", heads)
        self.sizes = {"h": (H,), "c": (H,), "M": (options.count("slots", slots), W), "u": (slots,), "w": (slots,)}
        self.sizes |= {"p": (slots,), "L": (slots, slots), "q": (R, slots), "r": (R, W)}
        bound = H**-0.5
        self.to_gates = Linear(width, 4 * H)
        self.recurrent = nn.Parameter(torch.empty(4 * H, H + R * W).uniform_(-bound, bound))
        # Of the write head k, e, v, beta, a, g; of the read heads k, beta, f, modes.
        self.parts = [W, W, W, 1, 1, 1, R * W, R, R, 3 * R]
        self.control = nn.Parameter(torch.empty(sum(self.parts), H).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(sum(self.parts)))
        self.memory = nn.Parameter(torch.randn(slots, slot) / 10)
        self.to_output = Linear(H + R * W, H)

    def start(self) -> dict[str, Tensor]:
        return {name: torch.zeros(size) for name, size in self.sizes.items()} | {"M": self.memory}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.to_gates(x)}

    def step(
        self, h: Tensor, c: Tensor, M: Tensor, u: Tensor, w: Tensor, p: Tensor, L: Tensor, q: Tensor, r: Tensor,
        x: Tensor,
    ):  # fmt: skip
        i, f, g, o = (x + self.recurrent @ torch.cat([h, r.flatten()])).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        key, erase, value, beta, at_free, gate, keys, betas, free, modes = (self.control @ h + self.bias).split(
            self.parts
        )
        u = (u + w - u * w) * (1 - torch.sigmoid(free)[:, None] * q).prod(0)
        w = look(M, key[None], beta)[0]
        w = torch.sigmoid(gate) * (w + torch.sigmoid(at_free) * (allocation(u) - w))
        M = M * (1 - torch.outer(w, torch.sigmoid(erase))) + torch.outer(w, value)
        apart = 1 - torch.eye(len(w), dtype=w.dtype, device=w.device)
        L = apart * ((1 - w[:, None] - w) * L + torch.outer(w, p))
        p = (1 - w.sum()) * p + w
        back, found, on = torch.softmax(modes.unflatten(0, (3, -1)), 0)[..., None]
        q = back * (q @ L) + found * look(M, keys.unflatten(0, (-1, M.shape[1])), betas) + on * (q @ L.mT)
        r = q @ M
        return (h, c, M, u, w, p, L, q, r), torch.cat([h, r.flatten()])

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y)


def look(M: Tensor, keys: Tensor, beta: Tensor) -> Tensor:
    """How alike each slot of M [slots, W] and each of the keys [n, W] are: weights [n, slots] that add up to one."""
    sizes = torch.sqrt(torch.outer((keys * keys).sum(1), (M * M).sum(1)) + 1e-12)
    return torch.softmax((1 + softplus(beta))[:, None] * (keys @ M.mT) / sizes, 1)


def allocation(u: Tensor) -> Tensor:
    """Where to write: at the slots in use least, as far as they are free."""
    at = torch.arange(len(u), device=u.device)
    before = (u < u[:, None]) | ((u == u[:, None]) & (at < at[:, None]))
    return (1 - u) * torch.where(before, u, 1).prod(1)
