"""Titans' three ways of joining its memory to attention: as a context, as a gate, and as a layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recurra import check, options
from recurra.models.step_by_step import StepByStep
from recurra.nn.linear import Linear
from recurra.pointwise import RMSNorm
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Recurrence
from recurra.recurrences.delta_net import unit
from recurra.recurrences.titans import Titans, learn, network
from recurra.state import State


class PersistentWindow(Recurrence):
    """y_t = sum_i softmax_i(q_t . k_i / sqrt(K)) v_i over `persistent` learned pairs and time steps t - c + 1 .. t.

    Lane: a head, q, k, v: [K], linear in x, K = D/heads. Its state is the last c = `window` k and v, and which of them
    were written. The result is W_o y. It is the sliding window of `MemoryAsGate` and `MemoryAsLayer`.
    """

    lane = Lane.HEAD

    def __init__(self, width: int, heads: int = 4, window: int = 64, persistent: int = 4):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.size, self.window = width // heads, options.count("window", window)
        self.to_qkv = Linear(width, 3 * width, bias=False)
        self.persistent = nn.Parameter(torch.randn(heads, 2, options.count("persistent", persistent), self.size))
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        zeros = torch.zeros(self.heads, self.window, self.size)
        return {"keys": zeros, "values": zeros, "written": zeros[..., 0]}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.to_qkv(x).chunk(3, -1))
        return {"q": q, "k": k, "v": v, "fixed": constant(self.persistent)}

    def step(self, keys: Tensor, values: Tensor, written: Tensor, q: Tensor, k: Tensor, v: Tensor, fixed: Tensor):
        keys, values = torch.cat([keys, k[None]])[1:], torch.cat([values, v[None]])[1:]
        written = torch.cat([written, written.new_ones(1)])[1:]
        return (keys, values, written), attend(q, fixed, keys, values, written)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))


class MemoryAsContext(Recurrence):
    """h_t = f(q'_t; M_s),  y_t = W_o attention of x_t to P learned pairs, and to the h_i and x_i of its segment, i <= t
    M_t, S_t = what the memory learns from y_t,  o_t = norm(y_t) * sigmoid(norm(f(q_t; M_t))).

    Lane: the layer. Segments are `segment` time steps long from the start of the sequence; s is the last time step of
    the segment before. q' = unit(W_r x) asks the memory as it then was; keys, queries and values of attention, with
    `heads` heads, are linear in x and h alike. The memory, one for the whole layer, is that of `Titans` without
    convolutions: q, k = unit(.) and v of linear maps of y_t, alpha, eta and theta of affine ones. The state: M, S, M_s,
    the keys and values of this segment, which of them were written, and how many time steps of it have passed.

    Source: Titans: Learning to Memorize at Test Time, Behrouz, Zhong, Mirrokni, 2024, arXiv:2501.00663, its
    memory as a context (MAC). Departures: the memory learns from one time step after the other; x_t attends to h_i up
    to i = t, since later ones know what is to come. The paper leaves open norms and nonlinearity of the gate.
    """

    lane = Lane.LAYER
    called_in_step = ("to_output", "to_memory")

    def __init__(
        self, width: int, heads: int = 4, segment: int = 64, persistent: int = 4, depth: int = 2, expand: int = 2
    ):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.segment, self.depth = options.count("segment", segment), options.count("depth", depth, 65)
        self.to_read, self.to_output = (Linear(width, width, bias=False) for _ in range(2))
        self.to_qkv, self.to_memory = (Linear(width, 3 * width, bias=False) for _ in range(2))
        self.persistent = nn.Parameter(torch.randn(2, options.count("persistent", persistent), width))
        memory = Titans(width, 1, depth, expand)
        self.memory, self.rate_bias = memory.memory, memory.to_rates.bias
        self.rate_weight = memory.to_rates.weight
        self.norms = nn.ModuleList(RMSNorm(width, eps=1e-5) for _ in range(2))

    def start(self) -> dict[str, Tensor]:
        zeros = torch.zeros(2 * self.segment, self.width)
        memory = {f"M{i + 1}": weight[0] for i, weight in enumerate(self.memory)}
        state = memory | {f"S{i + 1}": torch.zeros_like(weight[0]) for i, weight in enumerate(self.memory)}
        state |= {f"{name}_before": weight for name, weight in memory.items()}
        return state | {"keys": zeros, "values": zeros, "written": zeros[:, 0], "passed": torch.zeros(())}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        q, k, v = self.to_qkv(x).chunk(3, -1)
        return {"q": q, "k": k, "v": v, "read": unit(self.to_read(x))}

    def step(self, *state: Tensor, q: Tensor, k: Tensor, v: Tensor, read: Tensor):
        n = self.depth
        M, S, before = state[:n], state[n : 2 * n], state[2 * n : 3 * n]
        keys, values, written, passed = state[3 * n :]
        fresh = passed == 0
        before = tuple(torch.where(fresh, now, old) for now, old in zip(M, before, strict=True))
        _, k_h, v_h = mapped(self.to_qkv, network(read, before)).chunk(3)
        keys = torch.cat([keys, torch.stack([k_h, k])])[2:]
        values = torch.cat([values, torch.stack([v_h, v])])[2:]
        written = torch.cat([torch.where(fresh, 0.0, written), written.new_ones(2)])[2:]
        size = self.width // self.heads
        heads = [slice(i, i + size) for i in range(0, self.width, size)]
        a = [attend(q[h], self.persistent[:, :, h], keys[:, h], values[:, h], written) for h in heads]
        y = mapped(self.to_output, torch.cat(a))
        q_m, k_m, v_m = mapped(self.to_memory, y).chunk(3)
        alpha, eta, theta = self.rate_weight @ y + self.rate_bias
        M, S = learn(M, S, unit(k_m), v_m, alpha, eta, theta)
        passed = torch.where(passed + 1 == self.segment, 0.0, passed + 1)
        return (*M, *S, *before, keys, values, written, passed), torch.stack([y, network(unit(q_m), M)])

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        y, memory = y.unbind(2)
        return self.norms[0](y) * torch.sigmoid(self.norms[1](memory))


def mapped(module: nn.Module, x: Tensor) -> Tensor:
    """What a linear map gives one vector; those that are quantised take nothing but matrices."""
    return module(x[None])[0]


def attend(q: Tensor, fixed: Tensor, keys: Tensor, values: Tensor, written: Tensor) -> Tensor:
    """One head's softmax attention of q [K] to pairs `fixed` [2, P, K] and to those keys, values [S, K] written [S]."""
    scores = torch.cat([fixed[0] @ q, torch.where(written > 0, keys @ q, float("-inf"))]) * q.shape[0] ** -0.5
    weights = torch.exp(scores - scores.amax())
    return torch.cat([fixed[1], values]).T @ (weights / weights.sum())


class MemoryAsGate(StepByStep):
    """o = norm(attention(x)) * sigmoid(norm(memory(x))): `PersistentWindow` and `Titans` side by side.

    The same call as a layer. Source: that of `Titans`, its memory as a gate (MAG). Departure: the memory does not read
    the persistent pairs, which would only move its start, and that is learned. The paper leaves open the nonlinearity.
    """

    def __init__(self, width: int, heads: int = 4, window: int = 64, persistent: int = 4):
        super().__init__()
        self.width = width
        self.attention = PersistentWindow(width, heads, window, persistent)
        self.memory = Titans(width)
        self.attention_norm, self.memory_norm = (RMSNorm(width, eps=1e-5) for _ in range(2))

    def initial_state(self, batch: int) -> State:
        """The state before the first time step; names start with `memory` or `attention`."""
        return State(
            self.memory.initial_state(batch).prefixed("memory")
            | self.attention.initial_state(batch).prefixed("attention")
        )

    def forward(
        self,
        x: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
    ) -> tuple[Tensor, State]:
        """As `Recurrence.forward`."""
        carried = check.parts(type(self).__name__, state, ("memory", "attention")) or (None, None)
        how = {"resets": resets, "lengths": lengths, "engine": engine}
        m, memory = self.memory(x, carried[0], **how)
        y, attention = self.attention(self.attended(x, m), carried[1], **how)
        return self.joined(y, m), State(memory.prefixed("memory") | attention.prefixed("attention"))

    def attended(self, x: Tensor, memory: Tensor) -> Tensor:  # noqa: ARG002
        """What attention reads, from x and what the memory gave."""
        return x

    def joined(self, attention: Tensor, memory: Tensor) -> Tensor:
        """The result, from what both gave."""
        return self.attention_norm(attention) * torch.sigmoid(self.memory_norm(memory))


class MemoryAsLayer(MemoryAsGate):
    """o = attention(memory(x)): `PersistentWindow` on top of `Titans`, the paper's memory as a layer (MAL)."""

    def __init__(self, width: int, heads: int = 4, window: int = 64, persistent: int = 4):
        super().__init__(width, heads, window, persistent)
        del self.attention_norm, self.memory_norm

    def attended(self, x: Tensor, memory: Tensor) -> Tensor:  # noqa: ARG002
        """What the memory gave."""
        return memory

    def joined(self, attention: Tensor, memory: Tensor) -> Tensor:  # noqa: ARG002
        """What attention gave."""
        return attention
