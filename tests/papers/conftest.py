"""What is shown of learning is shown from the same seed: by how much one beats the other is no matter of chance."""

import pytest
import torch


@pytest.fixture(autouse=True)
def the_same_dice():
    torch.manual_seed(0)
