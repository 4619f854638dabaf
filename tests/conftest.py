"""Uninitialised memory is filled with NaN in every test, so that a forgotten element cannot pass by luck."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory():
    # Deterministic algorithms imply torch.utils.deterministic.fill_uninitialized_memory.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
