"""The HiPPO-LegS matrix, its normal part and the modes of that part, which diagonal state spaces start from.

Source: HiPPO: Recurrent Memory with Optimal Polynomial Projections, Gu, Dao, Ermon, Rudra, Ré, 2020, arXiv:2008.07669;
the normal part: How to Train Your HiPPO, Gu, Johnson, Timalsina, Rudra, Ré, 2022, arXiv:2206.12037.
"""

import torch
from torch import Tensor


def legs(size: int) -> tuple[Tensor, Tensor]:
    """A [N, N] and B [N] of dh/dt = A h + B u, whose state holds the coefficients of the past of u in N polynomials.

    A[n, k] = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, 0 above;  B[n] = sqrt(2n+1). In float64.
    """
    n = torch.arange(size, dtype=torch.float64)
    B = torch.sqrt(2 * n + 1)
    return -torch.outer(B, B).tril(-1) - torch.diag(n + 1), B


def legs_normal(size: int) -> Tensor:
    """A + P P^T [N, N] with P[n] = sqrt(n + 1/2): the diagonal is -1/2, the rest is skew-symmetric."""
    A, B = legs(size)
    return A + torch.outer(B, B) / 2


def legs_modes(size: int) -> tuple[Tensor, Tensor]:
    """The normal part's eigenvalues [N/2] of positive imaginary part, smallest first, and eigenvectors [N, N/2].

    N is even. The other half are the conjugates; all eigenvectors together form a unitary matrix.
    """
    # The skew-symmetric part times -i is Hermitian, and has the same eigenvectors.
    skew = legs_normal(size) + torch.eye(size) / 2
    frequency, vectors = torch.linalg.eigh(-1j * skew)
    half = size // 2
    return torch.complex(torch.full_like(frequency[half:], -0.5), frequency[half:]), vectors[:, half:]
