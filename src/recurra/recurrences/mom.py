"""Mixture-of-Memories: a router sends every time step to a few of several memories; the others stand still."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count, unit
from recurra.recurrences.discretisation import softplus_steps


class MixtureOfMemories(Recurrence):
    """S_t^m = S' + beta_t^m (v_t^m - S' k_t^m) (k_t^m)^T,  S' = exp(g_t^m) S_{t-1}^m,  where w_t^m > 0, else S_{t-1}^m
    o_t = sum_m w_t^m S_t^m q_t^m / sqrt(K),  g_t^m = -exp(A_log) softplus(a_t^m + dt_bias),  beta_t^m = sigmoid(b_t^m).

    w_t: of softmax(R x_t), one number for each of `memories`, the `active` largest, divided by their sum, else 0. Lane:
    a head of a memory, S: [K, K], K = D / heads, 256 at most by default; g, beta, w: numbers. q, k: unit(silu(conv(.)))
    and v: silu(conv(.)) of linear maps of x; that for q is the same in all memories, those for k, v, a and b differ.
    The short convolutions, the same in all memories, see the last `kernel` time steps that were sent to theirs. With
    `shared`, one memory more has w = 1 always. The result is W_o (rmsnorm(o) * silu(W_g x)), the norm within each head.
    Initialisation: exp(A_log) uniform in (0, 16], softplus(dt_bias) log-uniform in [0.001, 0.1].

    Source: MoM: Linear Sequence Modeling with Mixture-of-Memories, Du, Sun, Lan, Hu, Cheng, 2025, arXiv:2502.13685, on
    Gated DeltaNet, as in flash-linear-attention. Memories are chosen in float64, so that rounding chooses none; the
    loss that balances them is not here.
    """

    lane = Lane.HEAD
    paper = Paper(
        "MoM: Linear Sequence Modeling with Mixture-of-Memories", "Du, Sun, Lan, Hu, Cheng", 2025, "2502.13685"
    )

    def __init__(
        self, width: int, heads: int | None = None, memories: int = 4, active: int = 2, kernel: int = 4,
        shared: bool = True,
    ):  # fmt: skip
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 256)
        self.routed, self.active = options.count("memories", memories), options.count("active", active, memories + 1)
        self.memories = memories + options.flag("shared", shared)
        self.kernel = options.count("kernel", kernel)
        self.router = nn.Parameter(torch.empty(memories, width).uniform_(-(width**-0.5), width**-0.5))
        self.to_query = Linear(width, width, bias=False)
        self.to_memories = Linear(width, self.memories * 2 * (width + heads), bias=False)
        bound = kernel**-0.5
        self.conv_weight = nn.Parameter(torch.empty(heads, kernel, 3 * width // heads).uniform_(-bound, bound))
        self.A_log = nn.Parameter(torch.log(16 * (1 - torch.rand(heads))))
        self.dt_bias = nn.Parameter(softplus_steps(heads))
        self.to_gate, self.to_output = (Linear(width, width, bias=False) for _ in range(2))
        self.norm_weight = nn.Parameter(torch.ones(width // heads))

    def start(self) -> dict[str, Tensor]:
        lanes, size = self.heads * self.memories, self.width // self.heads
        return {"S": torch.zeros(lanes, size, size), "recent": torch.zeros(lanes, self.kernel - 1, 3 * size)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        size = self.width // self.heads
        q = self.to_query(x).unflatten(-1, (self.heads, 1, size)).expand(-1, -1, -1, self.memories, -1)
        kvab = self.to_memories(x).unflatten(-1, (self.heads, self.memories, -1))
        k, v, a, b = kvab.split([size, size, 1, 1], -1)
        dt = nn.functional.softplus(a + self.dt_bias[:, None, None])
        inputs = {"qkv": torch.cat([q, k, v], -1), "log_decay": (-torch.exp(self.A_log)[:, None, None] * dt)[..., 0]}
        share = self._shares(x)[:, :, None].expand(-1, -1, self.heads, -1)
        inputs |= {"beta": torch.sigmoid(b)[..., 0], "share": share}
        each = self.conv_weight.repeat_interleave(self.memories, 0)
        return {name: t.flatten(2, 3) for name, t in inputs.items()} | {"conv": constant(each)}

    def _shares(self, x: Tensor) -> Tensor:
        """[B, T, memories], zero for those that are not chosen."""
        scores = torch.softmax(x.double() @ self.router.double().mT, -1)
        best, places = scores.topk(self.active, -1)
        shares = torch.zeros_like(scores).scatter(-1, places, best / best.sum(-1, keepdim=True))
        return nn.functional.pad(shares, (0, self.memories - self.routed), value=1.0).to(x.dtype)

    def step(
        self, S: Tensor, recent: Tensor, qkv: Tensor, log_decay: Tensor, beta: Tensor, share: Tensor, conv: Tensor,
    ):  # fmt: skip
        window = torch.cat([recent, qkv[None]])
        q, k, v = nn.functional.silu((window * conv).sum(0)).chunk(3)
        q, k = unit(q) * len(q) ** -0.5, unit(k)
        new = torch.exp(log_decay) * S
        new = new + beta * torch.outer(v - new @ k, k)
        chosen = share != 0
        state = torch.where(chosen, new, S), torch.where(chosen, window[1:], recent)
        return state, torch.where(chosen, share * (new @ q), 0)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        o = rms_norm(y.unflatten(2, (self.heads, -1)).sum(3), self.norm_weight, 1e-5)
        return self.to_output(o.flatten(2) * nn.functional.silu(self.to_gate(x)))
