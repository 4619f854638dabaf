"""A tiny model of ours, tokens for it, and what it carries inside transformers."""

import torch

import recurra
from recurra.interop.transformers import CACHE

V = 29


def tiny(pattern="mamba+lstm", **options):
    torch.manual_seed(0)
    return recurra.LanguageModel(vocabulary=V, width=16, pattern=pattern, **options).eval()


def tokens(rows, time):
    return torch.randint(0, V, (rows, time))


def carried(output):
    """What a model of transformers carries on, by the name that it has in this version of them."""
    return output[CACHE]
