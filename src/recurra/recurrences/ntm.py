"""The neural Turing machine: an LSTM with a memory that it addresses by content and by place."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class NTM(Recurrence):
    """h_t, c_t = LSTM((x_t, r_{t-1}), h_{t-1}, c_{t-1});  a write and a read head, each by k, beta, g, s, gamma:
    w' = g softmax(beta cos(k, M_i)) + (1 - g) w_{t-1};  w'' = s * w', around the ring;  w_t = w''^gamma / sum w''^gamma
    M_t = M_{t-1} (1 - w e^T) + w a^T by the write head;  r_t = w M_t by the read head;  y_t = W_h h_t + W_r r_t.

    Lane: the layer, h and c: [H], M: [slots, W], W = `slot`, both heads' w: [2, slots], r: [W]. `control` makes of h_t
    k, a: [W] by tanh, e: [W] and g by sigmoid, beta by softplus, gamma by 1 + softplus, s: [3] by softmax, of moves by
    -1, 0, 1. At first M is `memory`, which is trained, and both heads are at slot 0.

    Source: Neural Turing Machines, Graves, Wayne, Danihelka, 2014, arXiv:1410.5401.
    """

    lane = Lane.LAYER
    paper = Paper("Neural Turing Machines", "Graves, Wayne, Danihelka", 2014, "1410.5401")

    def __init__(self, width: int, hidden: int | None = None, slots: int = 16, slot: int = 8):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.slots, self.slot = options.count("slots", slots), options.count("slot", slot)
        bound = H**-0.5
        self.to_gates = Linear(width, 4 * H)
        self.recurrent = nn.Parameter(torch.empty(4 * H, H + slot).uniform_(-bound, bound))
        # Of each head k, beta, g, s, gamma; of the write head e and a.
        self.sizes = [slot, 1, 1, 3, 1] * 2 + [slot, slot]
        self.control = nn.Parameter(torch.empty(sum(self.sizes), H).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(sum(self.sizes)))
        self.memory = nn.Parameter(torch.randn(slots, slot) / 10)
        self.to_output = Linear(H + slot, H)

    def start(self) -> dict[str, Tensor]:
        at = torch.eye(1, self.slots).repeat(2, 1)
        zero = torch.zeros(self.hidden)
        return {"h": zero, "c": zero.clone(), "M": self.memory, "w": at, "r": torch.zeros(self.slot)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.to_gates(x)}

    def step(self, h: Tensor, c: Tensor, M: Tensor, w: Tensor, r: Tensor, x: Tensor):
        i, f, g, o = (x + self.recurrent @ torch.cat([h, r])).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        *heads, erase, add = (self.control @ h + self.bias).split(self.sizes)
        at = address(M, w[0], *heads[:5])
        M = M * (1 - torch.outer(at, torch.sigmoid(erase))) + torch.outer(at, torch.tanh(add))
        seen = address(M, w[1], *heads[5:])
        r = seen @ M
        return (h, c, M, torch.stack([at, seen]), r), torch.cat([h, r])

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y)


def address(M: Tensor, before: Tensor, k: Tensor, beta: Tensor, g: Tensor, s: Tensor, gamma: Tensor) -> Tensor:
    """Where a head is that was at `before`: weights of the slots of M, which add up to one."""
    k = torch.tanh(k)
    sizes = torch.sqrt((M * M).sum(1) * (k * k).sum() + 1e-12)
    content = torch.softmax(nn.functional.softplus(beta) * (M @ k) / sizes, 0)
    w = before + torch.sigmoid(g) * (content - before)
    back, stay, on = torch.softmax(s, 0)
    w = back * torch.roll(w, -1) + stay * w + on * torch.roll(w, 1)
    sharp = (w + 1e-12) ** (1 + nn.functional.softplus(gamma))
    return sharp / sharp.sum()
