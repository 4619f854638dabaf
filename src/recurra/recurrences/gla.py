"""Gated linear attention: every row of a head's matrix state has its own data-dependent decay."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import RMSNorm
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.short_convolution import convolved, taps, window
from recurra.windows import Past


class GLA(Recurrence):
    """S_t = diag(a_t) S_{t-1} + k_t v_t^T,  y_t = S_t^T q_t / sqrt(K)
    a_t = sigmoid(W_2 W_1 x_t + b)^(1 / temperature).

    Lane: a head with S: [K, V] and q, k, a: [K], linear in x, v: [V]; V = D / heads, K = `key_width` / heads, by
    default V / 2. W_1: [rank, D]. The result is W_o (norm(y) * silu(W_r x + b_r)), norm over each head.
    With `negative_eigenvalues` S_{t-1} is multiplied by 2 a_t - 1, in (-1, 1) (Grazzi et al., 2024, arXiv:2411.12537).
    With a `kernel` q, k and v are silu(conv(..)) of that many time steps, as an option of the published code has it.
    Initialisation: Xavier uniform with gain 2^-2.5.

    Source: Gated Linear Attention Transformers with Hardware-Efficient Training, Yang, Wang, Shen, Panda, Kim, 2023,
    arXiv:2312.06635. As in its published code, 1 / sqrt(K) scales y, and norm divides by the root mean square and has
    weights [V] that all heads share, where the paper has a layer norm.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Gated Linear Attention Transformers with Hardware-Efficient Training", "Yang et al.", 2023, "2312.06635"
    )

    def __init__(
        self,
        width: int,
        heads: int = 4,
        key_width: int | None = None,
        rank: int = 16,
        temperature: float = 16.0,
        negative_eigenvalues: bool = False,
        kernel: int | None = None,
    ):
        super().__init__(width)
        keys = max(1, width // 2) if key_width is None else options.count("key_width", key_width)
        options.divisor("heads", heads, width, "width")
        self.heads = options.divisor("heads", heads, keys, "key width")
        self.keys = keys // heads
        self.temperature = options.number("temperature", temperature, 1e-6)
        self.negative_eigenvalues = options.flag("negative_eigenvalues", negative_eigenvalues)
        if self.negative_eigenvalues:  # in chunks a factor is a logarithm, which has no slope where it passes zero
            self.as_delta_rule = None  # type: ignore[assignment, method-assign]
        self.to_query = Linear(width, keys, bias=False)
        self.to_key = Linear(width, keys, bias=False)
        self.to_value = Linear(width, width, bias=False)
        self.to_forget = nn.Sequential(Linear(width, options.count("rank", rank), bias=False), Linear(rank, keys))
        self.to_gate = Linear(width, width)
        self.conv_weight = taps(2 * keys + width, kernel)
        self.windows = window(self.conv_weight)
        self.norm = RMSNorm(width // heads, eps=1e-5)
        self.to_output = Linear(width, width, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, gain=2**-2.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.keys, self.width // self.heads)}

    def inputs(self, x: Tensor, past: Past | None = None) -> dict[str, Tensor]:
        vectors = {"q": self.to_query(x), "k": self.to_key(x), "v": self.to_value(x)}
        vectors = convolved(past, self.conv_weight, vectors, silu=True) | {"forget": self.to_forget(x)}
        return {name: vector.unflatten(-1, (self.heads, -1)) for name, vector in vectors.items()}

    def step(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, forget: Tensor) -> tuple[Tensor, Tensor]:
        decay = torch.exp(-nn.functional.softplus(-forget) / self.temperature)
        decay = 2 * decay - 1 if self.negative_eigenvalues else decay
        S = decay[:, None] * S + torch.outer(k, v)
        return S, S.T @ q * self.keys**-0.5

    def as_delta_rule(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, forget: Tensor) -> DeltaRule:
        log_decay = -nn.functional.softplus(-forget) / self.temperature
        return DeltaRule(q * self.keys**-0.5, k, v, S.mT, log_decay=log_decay, result=lambda o, S: (S.mT, o))

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        return self.to_output(self.norm(y).flatten(2) * nn.functional.silu(self.to_gate(x)))
