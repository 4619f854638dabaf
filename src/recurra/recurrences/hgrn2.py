"""HGRN2: HGRN's gated recurrence with an outer product for a state."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.short_convolution import convolved, taps, window
from recurra.windows import Past


class HGRN2(Recurrence):
    """S_t = diag(f_t) S_{t-1} + (1 - f_t) i_t^T,  y_t = S_t^T o_t
    f_t = low + (1 - low) sigmoid(W_f x + b_f),  i_t = silu(W_i x + b_i),  o_t = sigmoid(W_q x + b_q).

    Lane: a head with S: [K, K] and f, i, o: [K], K = `head_size`, by default the largest divisor of 128, the published
    size, that fits D. low = `lower_bound`. The result is W_o norm(y) + b_o, a layer norm over all of D.
    With `negative_eigenvalues` S_{t-1} is multiplied by 2 f_t - 1 in the place of f_t (Grazzi et al., 2024,
    arXiv:2411.12537).

    With a `kernel` W_f x + b_f and alike are convolved over so many time steps, channel by channel, as an option of
    flash-linear-attention has it.

    Source: HGRN2: Gated Linear RNNs with State Expansion, Qin, Yang, Sun, Shen, Li, Sun, Zhong, 2024, arXiv:2404.07904.
    Activations and norm are those of its published code. There low is learned for all layers of a model together, a
    value per channel, and grows from 0 in the first; one layer is given one value.
    """

    lane = Lane.HEAD
    paper = Paper("HGRN2: Gated Linear RNNs with State Expansion", "Qin et al.", 2024, "2404.07904")

    def __init__(
        self,
        width: int,
        head_size: int | None = None,
        lower_bound: float = 0.0,
        negative_eigenvalues: bool = False,
        kernel: int | None = None,
    ):
        super().__init__(width)
        size = math.gcd(128, width) if head_size is None else head_size
        self.size = options.divisor("head_size", size, width, "width")
        self.lower_bound = options.number("lower_bound", lower_bound, 0, 1)
        self.most = 2.0 if options.flag("negative_eigenvalues", negative_eigenvalues) else 1.0
        if negative_eigenvalues:  # in chunks a factor is a logarithm, which has no slope where it passes zero
            self.as_delta_rule = None  # type: ignore[assignment, method-assign]
        self.to_forget = Linear(width, width)
        self.to_input = Linear(width, width)
        self.to_query = Linear(width, width)
        self.conv_weight = taps(3 * width, kernel)
        self.windows = window(self.conv_weight)
        self.norm = nn.LayerNorm(width)
        self.to_output = Linear(width, width)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.width // self.size, self.size, self.size)}

    def inputs(self, x: Tensor, past: Past | None = None) -> dict[str, Tensor]:
        vectors = {"forget": self.to_forget(x), "admit": self.to_input(x), "query": self.to_query(x)}
        vectors = convolved(past, self.conv_weight, vectors, silu=False)
        return {name: vector.unflatten(-1, (-1, self.size)) for name, vector in vectors.items()}

    def step(self, S: Tensor, forget: Tensor, admit: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        # 1 - f by itself: near f = 1 the difference would lose its digits.
        rest = (1 - self.lower_bound) * torch.sigmoid(-forget)
        S = (1 - self.most * rest)[:, None] * S + torch.outer(rest, nn.functional.silu(admit))
        return S, S.T @ torch.sigmoid(query)

    def as_delta_rule(self, S: Tensor, forget: Tensor, admit: Tensor, query: Tensor) -> DeltaRule:
        rest = (1 - self.lower_bound) * torch.sigmoid(-forget)
        q, v = torch.sigmoid(query), nn.functional.silu(admit)
        return DeltaRule(q, rest, v, S.mT, log_decay=self._log_kept(forget), result=lambda o, S: (S.mT, o))

    def _log_kept(self, forget: Tensor) -> Tensor:
        """log f, finite in value and slope wherever f is not zero for good."""
        low = forget.new_tensor(self.lower_bound)
        return torch.logaddexp(low.log(), torch.log1p(-low) + nn.functional.logsigmoid(forget))

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(self.norm(y.flatten(2)))
