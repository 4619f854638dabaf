"""What mixes channels and no time: in a pattern `mlp` and `experts` stand for it, so that a block may hold one of them
alone, or beside a recurrence. They are called as layers are, and have an empty state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recurra import options
from recurra.errors import InputError
from recurra.nn.linear import Linear, linear
from recurra.pointwise import relu_squared
from recurra.state import State

ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "relu-squared": relu_squared,
}
SCORES = ("softmax", "sigmoid")


class ChannelMixer(nn.Module):
    """y_t = f(x_t), called as a layer is, x [B, T, D] to y [B, T, D] and an empty state."""

    endless = False
    beside: Mapping[str, bool] = {}

    def __init__(self, width: int):
        super().__init__()
        self.width = self.output_width = options.count("width", width)

    def initial_state(self, batch: int) -> State:  # noqa: ARG002
        """Nothing."""
        return State()

    def forward(self, x: Tensor, state: Any = None, *, aux: bool = False, **how: Any) -> tuple[Any, ...]:  # noqa: ARG002
        """As `Layer.forward`; how a sequence is cut and run changes nothing."""
        y = self.mix(x)
        return (y, State(), {}) if aux else (y, State())

    def mix(self, x: Tensor) -> Tensor:
        """x [..., D] to y [..., D]."""
        raise NotImplementedError


class MLP(ChannelMixer):
    """W_2 (act(g W_g x) * W_u x), or W_2 act(g W_u x) where it is not `gated`; by default `hidden` is twice the width.

    W_g above W_u is `to_hidden`; g is `gate_scale`. With `output_gate` the result is sigmoid(w x) times that.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        gated: bool = True,
        activation: str = "silu",
        bias: bool = False,
        gate_scale: float = 1.0,
        output_gate: bool = False,
    ):
        super().__init__(width)
        hidden = 2 * width if hidden is None else options.count("hidden", hidden)
        self.gated, self.activate = options.flag("gated", gated), activation_of(activation)
        self.gate_scale = options.number("gate_scale", gate_scale, -options.MOST)
        self.to_hidden = Linear(width, hidden * (2 if gated else 1), bias=options.flag("bias", bias))
        self.to_output = Linear(hidden, width, bias=bias)
        self.to_gate = Linear(width, 1, bias=False) if options.flag("output_gate", output_gate) else None

    def mix(self, x: Tensor) -> Tensor:
        hidden = self.to_hidden(x)
        gate, *value = hidden.chunk(2, -1) if self.gated else (hidden,)
        hidden = self.activate(gate * self.gate_scale if self.gate_scale != 1 else gate)
        y = self.to_output(hidden * value[0] if value else hidden)
        return y if self.to_gate is None else torch.sigmoid(self.to_gate(x)) * y


class Experts(ChannelMixer):
    """sum_e w_e MLP_e(x), where only the `active` experts with the largest scores have a weight w_e that is not zero.

    Scores are the softmax, or sigmoids, of R x; w_e are those of the chosen, divided by their sum plus `eps` where they
    are `normalised`, times `scale`. With `correction` a bias b that no gradient reaches is added to the scores where
    experts are chosen. With `groups`, they are chosen from the `active_groups` groups whose two best scores have the
    largest sums. With `latent`, experts read L x and their sum is brought back by M. `to_hidden`: [E, H, D], its gates
    above its values where they are `gated`; `to_output`: [E, D, H].

    Every expert is computed for every time step: right for any choice, and as slow as all experts.

    Source: Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer, Shazeer et al., 2017,
    arXiv:1701.06538; sigmoids, groups and the correction: DeepSeek-V3, 2024, arXiv:2412.19437.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        experts: int = 8,
        active: int = 2,
        gated: bool = True,
        activation: str = "silu",
        score: str = "softmax",
        normalised: bool = True,
        scale: float = 1.0,
        eps: float = 1e-20,
        correction: bool = False,
        groups: int = 1,
        active_groups: int = 1,
        latent: int | None = None,
    ):
        super().__init__(width)
        hidden = 2 * width if hidden is None else options.count("hidden", hidden)
        self.experts = options.count("experts", experts)
        self.active = options.count("active", active, experts + 1)
        self.groups = options.divisor("groups", groups, experts, "experts")
        self.active_groups = options.count("active_groups", active_groups, groups + 1)
        if active > active_groups * (experts // groups):
            raise InputError(f"active is {active}; {active_groups} of {groups} groups hold fewer of {experts} experts")
        self.gated, self.activate = options.flag("gated", gated), activation_of(activation)
        self.score, self.normalised = options.choice("score", score, SCORES), options.flag("normalised", normalised)
        self.scale, self.eps = options.number("scale", scale, 0), options.number("eps", eps, 0)
        inner = width if latent is None else options.count("latent", latent)
        self.to_scores = Linear(width, experts, bias=False)
        if options.flag("correction", correction):
            self.correction: Tensor | None = nn.Buffer(torch.zeros(experts))
        else:
            self.correction = None
        self.to_latent = None if latent is None else Linear(width, inner, bias=False)
        self.from_latent = None if latent is None else Linear(inner, width, bias=False)
        shape = (experts, hidden * (2 if gated else 1), inner)
        self.to_hidden = nn.Parameter(torch.empty(shape).uniform_(-(inner**-0.5), inner**-0.5))
        self.to_output = nn.Parameter(torch.empty(experts, inner, hidden).uniform_(-(hidden**-0.5), hidden**-0.5))

    def mix(self, x: Tensor) -> Tensor:
        weights = self.weights(x).to(x.dtype)
        read, total = x if self.to_latent is None else self.to_latent(x), None
        for weight, into, out in zip(weights.unbind(-1), self.to_hidden, self.to_output, strict=True):
            gate, *value = linear(read, into).chunk(2, -1) if self.gated else (linear(read, into),)
            hidden = self.activate(gate)
            y = linear(hidden * value[0] if value else hidden, out)
            # Selected: an expert that was not chosen says nothing, be it infinite.
            y = torch.where(weight[..., None] != 0, weight[..., None] * y, 0)
            total = y if total is None else total + y
        assert total is not None
        return total if self.from_latent is None else self.from_latent(total)

    def weights(self, x: Tensor) -> Tensor:
        """Of every expert at every time step, [..., E]; zero where it is not chosen."""
        scores = self.to_scores(x)
        scores = scores.softmax(-1) if self.score == "softmax" else scores.sigmoid()
        rank = scores if self.correction is None else scores + self.correction
        if self.groups > 1:
            grouped = rank.unflatten(-1, (self.groups, -1))
            best = grouped.topk(min(2, grouped.shape[-1]), -1).values.sum(-1).topk(self.active_groups, -1).indices
            chosen = torch.zeros_like(grouped[..., 0]).scatter(-1, best, 1)[..., None] > 0
            rank = torch.where(chosen, grouped, float("-inf")).flatten(-2)
        places = rank.topk(self.active, -1).indices
        weights = torch.zeros_like(scores).scatter(-1, places, scores.gather(-1, places))
        if self.normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + self.eps)
        return weights * self.scale


def activation_of(name: str) -> Any:
    """The function of this name. Raises InputError if there is none."""
    return ACTIVATIONS[options.choice("activation", name, tuple(ACTIVATIONS))]
