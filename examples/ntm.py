"""The neural Turing machine: a network with a memory that it addresses by content and by place."""

import torch
from torch import nn

from recurra import Lane, Recurrence


class NTM(Recurrence):
    """Memory M [N, K], a controller h [D], and one head each to read and to write. The controller reads x_t [D] and
    what was read before, r [K]: h_t = tanh(W x_t + U h_{t-1} + V r_{t-1} + b). Each head is told by h_t a key k [K],
    beta = softplus(.), g = sigmoid(.), shifts s = softmax(.) over -1, 0, 1, and gamma = 1 + softplus(.), and moves its
    weights w [N] so:

        by content    c = softmax(beta cos(k, M_i) over i)
        by place      w' = g c + (1 - g) w_{t-1},   w'' = sum_j s_j roll(w', j),   w_t = w''^gamma / sum w''^gamma.

    The writing head erases e = sigmoid(.) [K] and adds a [K]; then the reading head reads:

        M_t = M_{t-1} (1 - w e^T) + w a^T,    r_t = M_t^T w.

    Lane: the layer. y_t = h_t + V' r_t, where the paper's controller gives the output from both. The controller is one
    tanh layer; memory and weights start from what is learned.

    Source: Neural Turing Machines, Graves, Wayne, Danihelka, 2014, arXiv:1410.5401.
    """

    lane = Lane.LAYER

    def __init__(self, width: int, slots: int = 16, size: int = 8):
        super().__init__(width)
        self.addressing = [size, 1, 1, 3, 1]
        self.from_x = nn.Linear(width, width)
        self.from_h = nn.Linear(width, width, bias=False)
        self.from_r = nn.Linear(size, width, bias=False)
        self.to_heads = nn.Linear(width, 2 * sum(self.addressing) + 2 * size)
        self.to_y = nn.Linear(size, width)
        self.first_memory = nn.Parameter(0.1 * torch.randn(slots, size))
        self.first_place = nn.Parameter(torch.randn(2, slots))

    def start(self):
        reads, writes = torch.softmax(self.first_place, 1)
        r = torch.zeros(self.first_memory.shape[1])
        return {"M": self.first_memory, "h": torch.zeros(self.width), "r": r, "reads": reads, "writes": writes}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, M, h, r, reads, writes, x):
        h = torch.tanh(x + self.from_h(h) + self.from_r(r))
        size, head = M.shape[1], sum(self.addressing)
        to_read, to_write, erase, add = self.to_heads(h).split([head, head, size, size])
        writes = self.moved(writes, to_write, M)
        M = M * (1 - torch.outer(writes, torch.sigmoid(erase))) + torch.outer(writes, add)
        reads = self.moved(reads, to_read, M)
        r = reads @ M
        return (M, h, r, reads, writes), h + self.to_y(r)

    def moved(self, w, told, M):
        """The weights of a head after a step."""
        key, beta, g, s, gamma = told.split(self.addressing)
        alike = torch.cosine_similarity(key[None], M, 1)
        by_content = torch.softmax(nn.functional.softplus(beta) * alike, 0)
        w = torch.sigmoid(g) * by_content + (1 - torch.sigmoid(g)) * w
        s = torch.softmax(s, 0)
        w = s[0] * torch.roll(w, -1, 0) + s[1] * w + s[2] * torch.roll(w, 1, 0)
        w = w ** (1 + nn.functional.softplus(gamma))
        return w / w.sum()
