"""Comba: a delta rule with feedback from the state when it is written, and from the input when it is read."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count, unit
from recurra.recurrences.discretisation import softplus_steps
from recurra.windows import Past


class Comba(Recurrence):
    """S' = a_t S_{t-1},  S_t = S' + beta_t (v_t - S' p_t) k_t^T,  o_t = S_t r_t / sqrt(K)
    p_t = unit(sigmoid(d) k~_t),  k_t = unit(k~_t),  r_t = unit(q~_t - D sigmoid(d) k~_t)
    a_t = exp(-exp(A_log) softplus(w_a x_t + dt_bias)),  beta_t = sigmoid(w_b x_t).

    Lane: a head, S: [V, K], V = 2 K by default (`expand`), K = D / heads, 256 at most by default; d, D, A_log, dt_bias:
    a number per head, D = `correction` at first; beta is twice as large with `negative_eigenvalues`.
    q~, k~ = silu(conv(..)), v = silu(conv(..)) of linear maps of x. The result is
    W_o (rmsnorm(o) * sigmoid(W_g x)), the norm within each head.
    Initialisation: exp(A_log) uniform in (0, 16], softplus(dt_bias) log-uniform in [0.001, 0.1], d = 1.

    Source: Comba: Improving Bilinear RNNs with Closed-loop Control, Hu, Pan, Du, Lan, Tang, Wen, Liang, Sun, 2025,
    arXiv:2506.02475, read as flash-linear-attention has it: there p is brought to length one again, so that d only
    acts through r.
    """

    lane = Lane.HEAD
    paper = Paper("Comba: Improving Bilinear RNNs with Closed-loop Control", "Hu et al.", 2025, "2506.02475")

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        expand: int = 2,
        kernel: int = 4,
        correction: float = 1.0,
        negative_eigenvalues: bool = False,
    ):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 256)
        self.size, inner = width // heads, options.count("expand", expand) * width
        self.largest_beta = 2.0 if options.flag("negative_eigenvalues", negative_eigenvalues) else 1.0
        self.parts = [width, width, inner]
        self.windows = {"conv": (sum(self.parts), options.count("kernel", kernel) - 1)}
        self.to_qkv = Linear(width, sum(self.parts), bias=False)
        bound = kernel**-0.5
        self.conv_weight = nn.Parameter(torch.empty(sum(self.parts), kernel).uniform_(-bound, bound))
        self.to_ab = Linear(width, 2 * heads, bias=False)
        self.dt_bias = nn.Parameter(softplus_steps(heads))
        self.A_log = nn.Parameter(torch.log(16 * (1 - torch.rand(heads))))
        self.feedback = nn.Parameter(torch.ones(heads, 1))
        self.D = nn.Parameter(torch.full((heads, 1), float(options.number("correction", correction, float("-inf")))))
        self.to_gate = Linear(width, inner, bias=False)
        self.norm_weight = nn.Parameter(torch.ones(inner // heads))
        self.to_output = Linear(inner, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, len(self.norm_weight), self.size)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        qkv = past.convolve("conv", self.to_qkv(x), self.conv_weight, silu=True)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv.split(self.parts, -1))
        p = torch.sigmoid(self.feedback) * k
        a, b = self.to_ab(x).chunk(2, -1)
        return {
            "r": unit(q - self.D * p) * self.size**-0.5,
            "k": unit(k),
            "p": unit(p),
            "v": v,
            "log_decay": -torch.exp(self.A_log) * nn.functional.softplus(a + self.dt_bias),
            "beta": self.largest_beta * torch.sigmoid(b),
        }

    def step(self, S: Tensor, r: Tensor, k: Tensor, p: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor):
        S = torch.exp(log_decay) * S
        S = S + beta * torch.outer(v - S @ p, k)
        return S, S @ r

    def as_delta_rule(
        self, S: Tensor, r: Tensor, k: Tensor, p: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor
    ) -> DeltaRule:
        return DeltaRule(r, k, v, S, beta, log_decay, erase=beta[..., None] * p)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.to_gate(x)).unflatten(-1, (self.heads, -1))
        return self.to_output((rms_norm(y, self.norm_weight, 1e-5) * gate).flatten(2))
