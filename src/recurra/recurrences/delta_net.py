"""DeltaNet: a matrix memory that corrects what it holds at a key instead of adding to it."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper, Recurrence
from recurra.windows import Past


class DeltaNet(Recurrence):
    """S_t = S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T,  o_t = S_t q_t.

    Lane: a head, S: [K, K] with K = D/heads, 128 by default; q, k, v: [K], beta: a number.
    q = unit(silu(conv(W_q x))), k alike, v = silu(conv(W_v x)); unit(z) = z / |z|. beta = sigmoid(w x) in (0, 1), or
    twice that with `negative_eigenvalues`: then I - beta k k^T may turn a sign, and the layer can count modulo two.
    The result is W_o rmsnorm(o), the norm within each head, or W_o (rmsnorm(o) * silu(W_g x)) with
    `output_gate`. Initialisation: as PyTorch's linear maps and convolutions.

    Source: Parallelizing Linear Transformers with the Delta Rule over Sequence Length, Yang, Wang, Zhang, Shen, Kim,
    2024, arXiv:2406.06484; the range (0, 2): Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues,
    Grazzi, Siems, Zela, Franke, Hutter, Pontil, 2024, arXiv:2411.12537. |z| is softened by 1e-6 under the root.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", "Yang et al.", 2024, "2406.06484"
    )

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        kernel: int = 4,
        negative_eigenvalues: bool = False,
        output_gate: bool = False,
    ):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 128)
        self.size = width // heads
        self.largest_beta = 2.0 if options.flag("negative_eigenvalues", negative_eigenvalues) else 1.0
        self.windows = {"conv": (3 * width, options.count("kernel", kernel) - 1)}
        self.to_qkv = Linear(width, 3 * width, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(3 * width, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.to_beta = Linear(width, heads, bias=False)
        self.to_gate = Linear(width, width, bias=False) if options.flag("output_gate", output_gate) else None
        self.norm_weight = nn.Parameter(torch.ones(self.size))
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.size, self.size)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        qkv = past.convolve("conv", self.to_qkv(x), self.conv_weight, silu=True)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv.chunk(3, -1))
        return {"q": unit(q), "k": unit(k), "v": v, "beta": self.largest_beta * torch.sigmoid(self.to_beta(x))}

    def step(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        S = S + beta * torch.outer(v - S @ k, k)
        return S, S @ q

    def as_delta_rule(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> DeltaRule:
        return DeltaRule(q, k, v, S, beta)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        y = rms_norm(y, self.norm_weight, 1e-5).flatten(2)
        return self.to_output(y if self.to_gate is None else y * nn.functional.silu(self.to_gate(x)))


def unit(x: Tensor) -> Tensor:
    """Vectors along the last axis at length one; the root is softened, so that zero stays zero, with a finite slope."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def head_count(heads: int | None, width: int, largest: int) -> int:
    """`heads`, a divisor of the width; None: the fewest, but two at least, of no more than `largest` channels each."""
    if heads is not None:
        return options.divisor("heads", heads, width, "width")
    return next((n for n in range(2, width + 1) if width % n == 0 and width // n <= largest), 1)
