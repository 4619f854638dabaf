"""A small recurrence over channels, for tests to change."""

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
