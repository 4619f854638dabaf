"""What several tests of the compiler start from: a small recurrence to change, and the table of all operations."""

import importlib.util
import sys
from pathlib import Path

import torch

from recurra import Lane, Recurrence


class Cell(Recurrence):
    lane = Lane.CHANNEL

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        return torch.tanh(h + x), h


def _table():
    """docs/operations.py, as a module."""
    spec = importlib.util.spec_from_file_location("operations", Path(__file__).parents[2] / "docs/operations.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["operations"] = module
    spec.loader.exec_module(module)
    return module


operations = _table()
