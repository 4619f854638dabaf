"""DeltaProduct: several delta-rule corrections of a matrix memory in each time step."""

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


class DeltaProduct(Recurrence):
    """S_{t,0} = S_{t-1};  S_{t,j} = S_{t,j-1} (I - beta_{t,j} k_{t,j} k_{t,j}^T) + beta_{t,j} v_{t,j} k_{t,j}^T
    for j = 1 .. n;  S_t = S_{t,n},  o_t = S_t q_t.

    Lane: a head, S: [K, K] with K = D/heads, 128 by default; q: [K]; k, v: [n, K], beta: [n], n = `householders`: the
    state is multiplied by a product of n generalised Householder matrices. q = unit(silu(conv(W_q x))), k alike,
    v = silu(conv(W_v x)), beta = 2 sigmoid(W_b x) in (0, 2), or half of it without `negative_eigenvalues`. The result
    is W_o rmsnorm(o), the norm within each head. With n = 1 this is DeltaNet. With
    `forget`, S_{t,0} = a_t S_{t-1}, a_t = exp(-exp(A_log) softplus(w x_t + dt_bias)) as in Gated DeltaNet; with
    `output_gate` the result is W_o (rmsnorm(o) * silu(W_g x)). Initialisation: as PyTorch's linear maps
    and convolutions.

    Source: DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products, Siems, Carstensen, Zela,
    Hutter, Pontil, Grazzi, 2025, arXiv:2502.10297. The paper writes S transposed; with
    `forget` it is its Gated DeltaProduct. |z| in unit(z) = z / |z| is softened by 1e-6 under the root.
    """

    lane = Lane.HEAD
    paper = Paper(
        "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products", "Siems et al.", 2025,
        "2502.10297",
    )  # fmt: skip

    def __init__(
        self, width: int, heads: int | None = None, householders: int = 2, kernel: int = 4,
        negative_eigenvalues: bool = True, forget: bool = False, output_gate: bool = False,
    ):  # fmt: skip
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 128)
        self.householders = options.count("householders", householders)
        self.size = width // heads
        self.largest_beta = 2.0 if options.flag("negative_eigenvalues", negative_eigenvalues) else 1.0
        self.parts = [width, householders * width, householders * width]
        self.windows = {"conv": (sum(self.parts), options.count("kernel", kernel) - 1)}
        self.to_qkv = Linear(width, sum(self.parts), bias=False)
        bound = kernel**-0.5
        self.conv_weight = nn.Parameter(torch.empty(sum(self.parts), kernel).uniform_(-bound, bound))
        self.to_beta = Linear(width, heads * householders, bias=False)
        if options.flag("forget", forget):
            self.to_dt = Linear(width, heads, bias=False)
            self.dt_bias = nn.Parameter(softplus_steps(heads))
            self.A_log = nn.Parameter(torch.log(16 * (1 - torch.rand(heads))))
        self.forgets = forget
        self.to_gate = Linear(width, width, bias=False) if options.flag("output_gate", output_gate) else None
        self.norm_weight = nn.Parameter(torch.ones(self.size))
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.size, self.size)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        qkv = past.convolve("conv", self.to_qkv(x), self.conv_weight, silu=True)
        q, k, v = qkv.split(self.parts, -1)
        by_head = (self.heads, self.householders, self.size)
        inputs = {
            "q": unit(q.unflatten(-1, (self.heads, -1))),
            "k": unit(k.unflatten(-1, by_head)),
            "v": v.unflatten(-1, by_head),
            "beta": self.largest_beta * torch.sigmoid(self.to_beta(x)).unflatten(-1, (self.heads, -1)),
        }
        if self.forgets:
            dt = nn.functional.softplus(self.to_dt(x) + self.dt_bias)
            inputs["log_decay"] = -torch.exp(self.A_log) * dt
        return inputs

    def step(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None):
        S = S if log_decay is None else torch.exp(log_decay) * S
        for j in range(self.householders):
            S = S + beta[j] * torch.outer(v[j] - S @ k[j], k[j])
        return S, S @ q

    def as_delta_rule(
        self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None
    ) -> DeltaRule:
        return DeltaRule(q, k, v, S, beta, log_decay)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        y = rms_norm(y, self.norm_weight, 1e-5).flatten(2)
        return self.to_output(y if self.to_gate is None else y * nn.functional.silu(self.to_gate(x)))
