"""What a model takes along from one window of a text to the next."""

from __future__ import annotations

from recurra.models.backbone import Backbone
from recurra.models.held import layers_of
from recurra.state import State


def carried(model: Backbone, state: State, batch: int) -> State:
    """The state with every layer whose state grows without bound at its start again.

    Such a layer sees one window at a time, as Transformers are trained; all others remember the whole text.
    """
    kept = State(state)
    for number, block in enumerate(model.blocks):
        for own, layer in layers_of(block.recurrence).items():
            if layer.endless:
                kept |= layer.initial_state(batch).prefixed(f"blocks.{number}{own}")
    return State(kept)
