"""Rodimus: a vector of memory per channel, with one gate for how much is taken and another for how selective it is."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import RMSNorm
from recurra.problem import Lane, StepInput, shared
from recurra.recurrence import Paper, Recurrence
from recurra.windows import Past


class Rodimus(Recurrence):
    """h_t = exp(-g_t tau_t) h_{t-1} + g_t^tau_t k_t v_t,  y_t = q_t . h_t + r u_t
    g_t = softplus(W_g u_t + b_g),  tau_t = sigmoid(W_tau u_t + b_tau),  v_t = sigmoid(W_2 W_1 s_t + b_v) s_t.

    Lane: a channel of the inner width 2 D, h: [N], N = `state_size`; v, r: numbers; g, tau, q, k: [N], the same for all
    channels. s = W_s x, u = silu(conv(s)); q and k~ are linear in u, k = k~ / |k~|; W_1: [rank, 2 D], with `rank` =
    D / 64, but 16 at least, by default. tau near 0 keeps the memory and writes in full, tau near 1 trades one for the
    other. The result is W_o rmsnorm(y silu(W_z x)).
    Initialisation: as PyTorch's linear maps and convolutions; r is 1.

    Source: Rodimus*: Breaking the Accuracy-Efficiency Trade-Off with Efficient Attentions, He, Li, Li, Wang, Pu, Wei,
    Zhang, Wang, Liu, 2024, arXiv:2410.06577, read as flash-linear-attention has it. The exponent g^tau is computed as
    exp(tau log g), which for g = 0 is 0, as there.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Rodimus*: Breaking the Accuracy-Efficiency Trade-Off with Efficient Attentions",
        "He et al.",
        2024,
        "2410.06577",
    )

    def __init__(self, width: int, state_size: int = 64, kernel: int = 4, rank: int | None = None):
        super().__init__(width)
        inner, N = 2 * width, options.count("state_size", state_size)
        self.state_size = N
        rank = max(width // 64, 16) if rank is None else options.count("rank", rank)
        self.windows = {"conv": (inner, options.count("kernel", kernel) - 1)}
        bound = kernel**-0.5
        self.to_signal = Linear(width, inner, bias=False)
        self.to_gate = Linear(width, inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(inner, kernel).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound))
        self.to_query = Linear(inner, N, bias=False)
        self.to_key = Linear(inner, N, bias=False)
        self.to_take = Linear(inner, N)
        self.to_temperature = Linear(inner, N)
        self.to_admit = nn.Sequential(Linear(inner, rank, bias=False), Linear(rank, inner))
        self.residual = nn.Parameter(torch.ones(inner))
        self.norm = RMSNorm(inner, eps=1e-5)
        self.to_output = Linear(inner, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(len(self.residual), self.state_size)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        signal = self.to_signal(x)
        u = past.convolve("conv", signal, self.conv_weight, self.conv_bias, silu=True)
        take = nn.functional.softplus(self.to_take(u))
        temperature = torch.sigmoid(self.to_temperature(u))
        k = nn.functional.normalize(self.to_key(u), dim=-1) * take**temperature
        return {
            "v": torch.sigmoid(self.to_admit(signal)) * signal,
            "u": self.residual * u,
            "gate": self.to_gate(x),
            "q": shared(self.to_query(u) * k.shape[-1] ** -0.5),
            "k": shared(k),
            "log_decay": shared(-take * temperature),
        }

    def step(self, h: Tensor, v: Tensor, u: Tensor, gate: Tensor, q: Tensor, k: Tensor, log_decay: Tensor):
        h = torch.exp(log_decay) * h + k * v
        return h, ((q * h).sum() + u) * nn.functional.silu(gate)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(self.norm(y))
