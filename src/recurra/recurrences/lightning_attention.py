"""Lightning attention: linear attention in which every head forgets at a fixed rate of its own."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import RMSNorm
from recurra.problem import DeltaRule, Lane, StepInput, compute_dtype, constant
from recurra.recurrence import Paper, Recurrence


class LightningAttention(Recurrence):
    """S_t = exp(-s) S_{t-1} + v_t k_t^T,  o_t = S_t q_t,  s = 2^(-8 (h + 1) / H) (1 - depth + 1e-5).

    Lane: a head, h = 0 .. H - 1, S: [K, K], K = `size`, by default D / H; q, k, v = silu(W x), whose rows are those of
    q, k and v for each head in turn. `depth` is where in the model the layer stands, from 0 for the first to 1 for the
    last: the later, the longer it remembers. The result is W_o (sigmoid(W_g x) * rmsnorm(o)), the norm over all heads.
    Initialisation: as PyTorch's linear maps.

    Source: MiniMax-01: Scaling Foundation Models with Lightning Attention, MiniMax, 2025, arXiv:2501.08313, and its
    published code; the name is that of Lightning Attention-2, Qin, Sun, Li, Shen, Sun, Zhong, 2024, arXiv:2401.04658.
    """

    lane = Lane.HEAD
    paper = Paper("MiniMax-01: Scaling Foundation Models with Lightning Attention", "MiniMax", 2025, "2501.08313")

    def __init__(self, width: int, heads: int = 4, size: int | None = None, depth: float = 0.0, norm_eps: float = 1e-6):
        super().__init__(width)
        self.heads = options.count("heads", heads)
        divided = width // options.divisor("heads", heads, width, "width") if size is None else size
        self.size = options.count("size", divided)
        self.depth = options.number("depth", depth, 0, 1 + 1e-9)
        inner = heads * self.size
        self.to_qkv = Linear(width, 3 * inner, bias=False)
        self.to_gate = Linear(width, inner, bias=False)
        self.norm = RMSNorm(inner, eps=options.number("norm_eps", norm_eps, 0))
        self.to_output = Linear(inner, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.size, self.size)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        q, k, v = nn.functional.silu(self.to_qkv(x)).unflatten(-1, (self.heads, -1)).chunk(3, -1)
        h = torch.arange(1, self.heads + 1, dtype=compute_dtype(x.dtype), device=x.device)
        slope = 2 ** (-8 * h / self.heads) * (1 - self.depth + 1e-5)
        return {"q": q, "k": k, "v": v, "slope": constant(slope)}

    def step(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        S = torch.exp(-slope) * S + torch.outer(v, k)
        return S, S @ q

    def as_delta_rule(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> DeltaRule:
        return DeltaRule(q, k, v, S, log_decay=-slope)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        return self.to_output(torch.sigmoid(self.to_gate(x)) * self.norm(y.flatten(2)))
