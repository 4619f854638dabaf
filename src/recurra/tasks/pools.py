"""What a head is shown of all the steps so far. A pool is a recurrence: it streams, is packed and saved as they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recurra import check, options
from recurra.nn.linear import Linear, linear
from recurra.problem import Lane, cast, compute_dtype
from recurra.recurrence import Recurrence
from recurra.state import State


class Each(nn.Module):
    """Every step as it is, called as a recurrence; "last" is the same, looked at when a sequence ends."""

    def __init__(self, width: int):
        super().__init__()
        self.width = options.count("width", width)

    def initial_state(self, batch: int) -> State:  # noqa: ARG002
        """Nothing is remembered."""
        return State()

    def forward(
        self,
        x: Tensor,
        state: Mapping[str, Tensor] | None = None,  # noqa: ARG002
        *,
        resets: Tensor | None = None,  # noqa: ARG002
        lengths: Tensor | None = None,
        engine: str = "auto",  # noqa: ARG002
    ) -> tuple[Tensor, State]:
        """As `Layer.forward`."""
        lengths = check.lengths(lengths, x)
        if lengths is not None:
            x = torch.where((torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None], x, 0)
        return x, State()


class Mean(Recurrence):
    """y_t = the mean of x_1 ... x_t: n_t = n_{t-1} + 1, y_t = y_{t-1} + (x_t - y_{t-1}) / n_t. Lane: channel."""

    lane = Lane.CHANNEL

    def start(self) -> dict[str, Tensor]:
        return {"count": torch.zeros(self.width), "mean": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}

    def step(self, count: Tensor, mean: Tensor, x: Tensor):
        count = count + 1
        mean = mean + (x - mean) / count
        return (count, mean), mean


class Max(Recurrence):
    """y_t = the largest of x_1 ... x_t. Lane: channel."""

    lane = Lane.CHANNEL

    def start(self) -> dict[str, Tensor]:
        return {"count": torch.zeros(self.width), "largest": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}

    def step(self, count: Tensor, largest: Tensor, x: Tensor):
        # What has seen nothing takes the first: a start of minus infinity is nothing to compute slopes with.
        largest = torch.where(count == 0, x, torch.maximum(largest, x))
        return (count + 1, largest), largest


class Attention(Recurrence):
    """y_t = sum_i softmax_i(s_i) x_i over i <= t, for each head its channels of x; s = W x. Lane: head.

    m_t = max(m_{t-1}, s_t),  w_t = e^{m_{t-1} - m_t} w_{t-1} + e^{s_t - m_t},  the sum of x likewise.

    Source: the streamed softmax of "Attention as an RNN", Feng et al., 2024, arXiv:2405.13956, whose state this is;
    keys and values are not projected.
    """

    lane = Lane.HEAD

    def __init__(self, width: int, heads: int | None = None):
        super().__init__(width)
        some = next(n for n in (4, 2, 1) if not width % n)
        self.heads = options.divisor("heads", some if heads is None else heads, width, "width")
        self.to_scores = Linear(width, self.heads, bias=False)

    def start(self) -> dict[str, Tensor]:
        zero = torch.zeros(self.heads)
        return {"highest": zero, "weight": zero, "sum": torch.zeros(self.heads, self.width // self.heads)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        # Which score is largest decides where gradients go, so scores are not rounded to half types.
        dtype = compute_dtype(x.dtype)
        scores = linear(cast(x, dtype), cast(self.to_scores.weight, dtype))
        return {"score": scores, "x": x.unflatten(-1, (self.heads, -1))}

    def step(self, highest: Tensor, weight: Tensor, sum: Tensor, score: Tensor, x: Tensor):
        return _attended(highest, weight, sum, score, x)


class LabelAttention(Recurrence):
    """A score for each of several labels, from the steps that say most of it: x [B, T, D] to y [B, T, labels].

    a_i = softmax_i(u_l tanh(W x_i)),  y_t = sum_i a_i (w_l x_i) + b_l over i <= t. Lane: a label.

    Source: Explainable Prediction of Medical Codes from Clinical Text, Mullenbach et al., 2018, arXiv:1802.05695, with
    the tanh of TransICD, Biswas, Pham, Zhang, 2021, arXiv:2104.10652. What is summed are the label's own products, not
    all of x, which gives the same.
    """

    lane = Lane.HEAD

    def __init__(self, width: int, labels: int):
        super().__init__(width)
        self.labels = options.count("labels", labels)
        self.to_hidden = Linear(width, width)
        self.to_scores = Linear(width, labels, bias=False)
        self.to_values = Linear(width, labels)

    def start(self) -> dict[str, Tensor]:
        zero = torch.zeros(self.labels)
        return {"highest": zero, "weight": zero, "sum": zero}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"score": self.to_scores(self.to_hidden(x).tanh()), "value": self.to_values(x)}

    def step(self, highest: Tensor, weight: Tensor, sum: Tensor, score: Tensor, value: Tensor):
        return _attended(highest, weight, sum, score, value)


def _attended(highest: Tensor, weight: Tensor, sum: Tensor, score: Tensor, value: Tensor):
    """One step more of a streamed softmax: its new state, and the mean of values so far by their weights."""
    highest = torch.where(weight == 0, score, highest)
    new = torch.maximum(highest, score)
    keep, admit = torch.exp(highest - new), torch.exp(score - new)
    weight = keep * weight + admit
    sum = keep * sum + admit * value
    return (new, weight, sum), sum / weight


POOLS = {"each": Each, "last": Each, "mean": Mean, "max": Max, "attention": Attention}
"""By name. A head looks at "each" after every step, at the others when a sequence ends, or when it is asked."""


def pool(name: str, width: int) -> nn.Module:
    """The pool of a name. Raises InputError if there is none."""
    return POOLS[options.choice("pool", name, tuple(POOLS))](width)
