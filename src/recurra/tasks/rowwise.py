"""A model of a task that takes one row after another: each in one launch of kernels where that can be, in constant
memory.

The parts of a model are modules of one vector each. What a part does not read, it passes on to those behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recurra.engines.stepping.chain import Walk
from recurra.engines.stepping.single import StepPlan, step_plan, undisturbed
from recurra.state import State, joined
from recurra.tasks.model import Model, Outlook

Carried = Mapping[str, Tensor]


class Enter(nn.Module):
    """What is measured in a row, [1, 1, inlet.size], and more, to x, the scale of the series, and more."""

    def __init__(self, model: Model):
        super().__init__()
        self.inlet = model.inlet

    def forward(self, row: Tensor, state: Carried, engine: str = "auto") -> tuple[Tensor, State]:
        series, others, more = row.tensor_split(self.inlet.splits, -1)
        x, scale, after = self.inlet.enter(series, self.inlet.encoding.said(others), state, engine=engine)
        return torch.cat([x, scale.mean, scale.deviation, more], -1), after


class Beside(nn.Module):
    """A part of a model that is called as layers are, and what it passes on."""

    def __init__(self, part: nn.Module, width: int):
        super().__init__()
        self.part, self.width = part, width

    def forward(self, x: Tensor, state: Carried, engine: str = "auto") -> tuple[Tensor, State]:
        y, after = self.part(x[..., : self.width], state, engine=engine)
        return torch.cat([y, x[..., self.width :]], -1), after


class Show(nn.Module):
    """The norm behind the blocks and the pool."""

    def __init__(self, model: Model):
        super().__init__()
        self.norm, self.pool = model.backbone.norm, model.pool

    def forward(self, x: Tensor, state: Carried, engine: str = "auto") -> tuple[Tensor, State]:
        y, after = self.pool(self.norm(x), state or None, engine=engine)
        return y, after


class Now(nn.Module):
    """What a model says of the rows so far: raw numbers."""

    def __init__(self, model: Model):
        super().__init__()
        self.outlook, self.width = model.outlook, model.backbone.width + model.inlet.beside

    def forward(self, read: Tensor, state: Carried, engine: str = "auto") -> tuple[Tensor, State]:  # noqa: ARG002
        return self.outlook(read[..., : self.width]), State()


class Before(nn.Module):
    """What a model had said of a row one step before: raw numbers, and the scale of the series then."""

    def __init__(self, model: Model):
        super().__init__()
        assert isinstance(model.outlook, Outlook)
        self.outlook, self.width, self.channels = model.outlook, model.backbone.width, len(model.inlet.mean)

    def forward(self, read: Tensor, state: Carried, engine: str = "auto") -> tuple[Tensor, State]:  # noqa: ARG002
        ends = (self.width, self.width + self.channels, self.width + 2 * self.channels)
        y, mean, deviation, known = read.tensor_split(ends, -1)
        said = None if self.outlook.known is None else self.outlook.known.said(known)[..., None, :]
        raw = self.outlook.raw(state["y"], said, 1)[..., 0, :]
        told = torch.cat([raw, state["mean"], state["deviation"]], -1)
        return told, State({"y": y, "mean": mean, "deviation": deviation})


class Rowwise:
    """A model as parts that take a row, [1, 1, size], one after another, with the states between rows.

    Args:
        last: `Now` or `Before`.
        place: of one sequence, as `recurra.tasks.passing` has it.
    """

    def __init__(self, model: Model, last: nn.Module, place: State):
        width = model.backbone.width
        blocks = [Beside(block, width) for block in model.backbone.blocks]
        self._parts = nn.ModuleList([Enter(model), *blocks, Beside(Show(model), width), last])
        self._names = ["scale", *(f"blocks.{n}" for n in range(len(blocks))), "pool", "read"]
        whole = State(place)
        self._states: Sequence[Carried] = [whole.under(name) for name in self._names]
        self._walk: tuple[StepPlan, Walk] | None = None

    @property
    def place(self) -> State:
        """Where it stands."""
        self._settle()
        return joined(self._names, self._states)

    def _settle(self) -> None:
        """Have the states here, wherever they were."""
        if self._walk is not None:
            self._states, self._walk = self._walk[1].end(), None

    def step(self, row: Tensor) -> Tensor:
        """What the last part says after a row [1, size]: [1, size of that]."""
        plain = undisturbed()
        if self._walk is not None and not (plain and self._walk[0].holds()):
            self._settle()
        if self._walk is None and plain:
            self._walk = self._begin(row)
        if self._walk is not None:
            plan, walk = self._walk
            assert plan.chain is not None
            y = walk.steps([plan.chain.input(row)])
            assert y is not None
            return y
        y, after = row[None], []
        for part, state in zip(self._parts, self._states, strict=True):
            y, new = part(y, state)
            after.append(new)
        self._states = after
        return y[0]

    def _begin(self, row: Tensor) -> tuple[StepPlan, Walk] | None:
        plan = step_plan(self._parts, lambda: list(self._parts), row, self._states)
        if plan is None or plan.chain is None or plan.reading.hooked:
            return None
        return plan, Walk(plan.chain, self._states)
