"""MesaNet: the memory is a least-squares problem, and every query is answered by its solution so far."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count, unit
from recurra.windows import Past


class MesaNet(Recurrence):
    """A_t = g_t A_{t-1} + beta_t k_t k_t^T,  B_t = g_t B_{t-1} + beta_t v_t k_t^T,  o_t = B_t (A_t + diag(l))^-1 q_t.

    Lane: a head; A, B: [K, K], K = D / heads, 128 at most by default; q, k, v: [K]; g, beta: numbers; l: [K], positive
    and the same at all times. q, k = unit(silu(conv(..))) and v linear in x, g = sigmoid(w_g x + b_g), beta =
    sigmoid(w_b x + b_b), l = 0.25 + softplus(.). So o_t = M q_t with the M that minimises the sum of all squares
    |M k - v|^2 so far, those of long ago counting less, with l as a ridge. The system is solved by `iterations` steps
    of conjugate gradients, from q / (diag(A) + l). The result is W_o rmsnorm(o), the norm within each head.
    Initialisation: as PyTorch's linear maps and convolutions, l = 1.

    Source: MesaNet: Sequence Modeling by Locally Optimal Test-Time Training, von Oswald, Scherrer, Kobayashi, Versari,
    Yang, Schlegel, Maile, Schimpf, Sieberling, Meulemans et al., 2025, arXiv:2506.05233; the 0.25 and the first guess
    as in flash-linear-attention, where 1e-5 softens the divisions and `iterations` are 30
    at most: with so many the first call takes a minute to compile. It has no form in chunks here: that would be one for
    each iteration, which reads A by what the one before has found.
    """

    lane = Lane.HEAD
    paper = Paper(
        "MesaNet: Sequence Modeling by Locally Optimal Test-Time Training", "von Oswald et al.", 2025, "2506.05233"
    )

    def __init__(self, width: int, heads: int | None = None, kernel: int = 4, iterations: int = 5):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 128)
        self.size, self.iterations = width // heads, options.count("iterations", iterations)
        self.windows = {"conv": (2 * width, options.count("kernel", kernel) - 1)}
        bound = kernel**-0.5
        self.to_qk = Linear(width, 2 * width, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(2 * width, kernel).uniform_(-bound, bound))
        self.to_value = Linear(width, width, bias=False)
        self.to_gates = Linear(width, 2 * heads)
        self.ridge = nn.Parameter(torch.full((heads, self.size), 0.75).expm1().log())
        self.norm_weight = nn.Parameter(torch.ones(self.size))
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        empty = torch.zeros(self.heads, self.size, self.size)
        return {"A": empty, "B": empty.clone()}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        qk = past.convolve("conv", self.to_qk(x), self.conv_weight, silu=True)
        q, k = (unit(part.unflatten(-1, (self.heads, -1))) for part in qk.chunk(2, -1))
        forget, beta = self.to_gates(x).chunk(2, -1)
        return {
            "q": q,
            "k": k,
            "v": self.to_value(x).unflatten(-1, (self.heads, -1)),
            "g": torch.sigmoid(forget),
            "beta": torch.sigmoid(beta),
            "ridge": constant(0.25 + nn.functional.softplus(self.ridge)),
        }

    def step(
        self, A: Tensor, B: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, ridge: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        A = g * A + beta * torch.outer(k, k)
        B = g * B + beta * torch.outer(v, k)
        x = q / (A.diagonal() + ridge)
        rest = q - A @ x - ridge * x
        direction, size = rest, rest.square().sum()
        for _ in range(self.iterations):
            image = A @ direction + ridge * direction
            length = size / ((direction * image).sum() + 1e-5)
            x, rest = x + length * direction, rest - length * image
            size, before = rest.square().sum(), size
            direction = rest + size / (before + 1e-5) * direction
        return (A, B), B @ x

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(rms_norm(y, self.norm_weight, 1e-5).flatten(2))
