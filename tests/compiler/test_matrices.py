"""Linear algebra of a matrix that is the state itself: it is traced, and its gradient is PyTorch's in both halves."""

import pytest
import torch

from recurra import Lane, Recurrence, State
from recurra.testing.cases import Case, compare

METHODS = {
    "cholesky": lambda P, x: torch.linalg.cholesky(P) @ x,
    "cholesky, upper": lambda P, x: torch.linalg.cholesky(P, upper=True) @ x,
    "solve": torch.linalg.solve,
    "solve_triangular": lambda P, x: torch.linalg.solve_triangular(P, x[:, None], upper=False)[:, 0],
    "inv": lambda P, x: torch.linalg.inv(P) @ x,
    "det": lambda P, x: torch.linalg.det(P) * x,
    "slogdet": lambda P, x: torch.linalg.slogdet(P)[1] * x,
}


@pytest.mark.parametrize("method", METHODS)
def test_of_a_state(method):
    class Cell(Recurrence):
        lane = Lane.LAYER

        def start(self):
            return {"P": torch.eye(3)}

        def inputs(self, x):
            return {"x": x}

        def step(self, P, x):
            return 0.9 * P, METHODS[method](P, x)

    root = torch.randn(2, 3, 3, dtype=torch.float64)
    symmetric = root @ root.mT + torch.eye(3)
    # Where one half is read, what the other holds does not matter.
    for P in (symmetric, symmetric + torch.randn(2, 3, 3).double().triu(1) / 8):
        compare(Case(Cell(3).double(), torch.randn(2, 4, 3, dtype=torch.float64), State({"P": P})), "compiled")
