"""A model that is made deeper while it computes what it did."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from recurra import check
from recurra.errors import InputError
from recurra.models.backbone import Backbone
from recurra.models.block import Block
from recurra.models.pattern import parse
from recurra.nn.linear import Linear
from recurra.options import shown

AnyBackbone = TypeVar("AnyBackbone", bound=Backbone)


def grown(model: AnyBackbone, pattern: str) -> AnyBackbone:
    """A model of a longer pattern, such as "lstm*4" of one of "lstm*2", that gives what `model` gives: the same
    weights, in memory of its own, and new blocks on top whose last maps are zero, so that they add nothing until they
    have learned to.

    Raises InputError if the pattern does not begin with that of the model.

    Source: layer-wise pretraining, as in A Comprehensive Study of Deep Bidirectional LSTM RNNs for Acoustic Modeling in
    Speech Recognition, Zeyer, Doetsch, Voigtlaender, Schlüter, Ney, 2017, arXiv:1606.06871. Departure: nothing is
    thrown away when a layer comes.
    """
    old, new = parse(model.config["pattern"]), parse(pattern)
    if new[: len(old)] != old:
        raise InputError(f"pattern is {shown(pattern)}; expected one that begins with {model.config['pattern']!r}")
    made: AnyBackbone = type(model)(**{**model.config, "pattern": pattern})
    for block, as_was in zip(made.blocks, model.blocks, strict=False):
        assert isinstance(block, Block)
        if as_was.join is not None and block.join is None:  # it was grown itself
            block.join = Linear(block.gives, model.width, bias=False)
    for block in list(made.blocks)[len(old) :]:
        assert isinstance(block, Block)
        _silence(block, model.width)
    made.load_state_dict(made.state_dict() | model.state_dict())
    like = check.representative(model)
    return (made if like is None else made.to(like.device, like.dtype)).train(model.training)


def _silence(block: Block, width: int) -> None:
    """Make a block add nothing."""
    if block.join is None:
        block.join = Linear(block.gives, width, bias=False)
    for last in [block.join, *([block.mlp_out] if block.mlp else [])]:
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
