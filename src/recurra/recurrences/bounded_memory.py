"""ABC: softmax attention over a few slots, each of them a mean of all time steps with weights of its own."""

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.light_net import joined, taken_up


class ABC(Recurrence):
    """K_t = sum over i <= t of p_i k_i^T,  V_t = sum over i <= t of p_i v_i^T,  p_i = exp(s_i) / sum_{j <= t} exp(s_j)
    o_t = V_t^T softmax(K_t q_t / sqrt(d)).

    Lane: a head; q, k, v: [d], d = D / heads; s and p: [M], M = `slots`, d by default; all of them linear in x. The
    state is z = log sum exp(s): [M], and S: [M, 2d], whose halves are K and V. While nothing has been seen (seen = 0,
    from then on 1) z stands for -infinity. The result is W_o o.
    Initialisation: as PyTorch's linear maps.

    Source: ABC: Attention with Bounded-memory Control, Peng, Kasai, Pappas, Yogatama, Wu, Kong, Schwartz, Smith, 2021,
    arXiv:2110.02488, its causal form (ABC_MLP) with s linear in x; norms, gates and RoPE of other code are left out.
    """

    lane = Lane.HEAD
    paper = Paper("ABC: Attention with Bounded-memory Control", "Peng et al.", 2021, "2110.02488")

    def __init__(self, width: int, heads: int = 4, slots: int | None = None):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.size = width // heads
        self.slots = self.size if slots is None else options.count("slots", slots)
        self.to_query, self.to_key, self.to_value = (Linear(width, width, bias=False) for _ in range(3))
        self.to_slots = Linear(width, heads * self.slots, bias=False)
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        z = torch.zeros(self.heads, self.slots)
        return {"z": z, "S": z[..., None].repeat(1, 1, 2 * self.size), "seen": torch.zeros(self.heads)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        vectors = {"q": self.to_query, "k": self.to_key, "v": self.to_value, "s": self.to_slots}
        return {name: to(x).unflatten(-1, (self.heads, -1)) for name, to in vectors.items()}

    def step(
        self, z: Tensor, S: Tensor, seen: Tensor, q: Tensor, k: Tensor, v: Tensor, s: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        state = taken_up((z, S, seen), s, torch.cat([k, v]))
        K, V = state[1].chunk(2, -1)
        return state, V.T @ torch.softmax(K @ q * self.size**-0.5, 0)

    def combine(self, earlier: tuple[Tensor, ...], later: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return joined(earlier, later)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))
