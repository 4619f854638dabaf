"""HiPPO: the systems dh/dt = A h + B u whose states are the past of u in a basis, their normal parts and their modes.

Source: HiPPO: Recurrent Memory with Optimal Polynomial Projections, Gu, Dao, Ermon, Rudra, Ré, 2020, arXiv:2008.07669;
normal parts, and Fourier's basis: How to Train Your HiPPO, Gu, Johnson, Timalsina, Rudra, Ré, 2022, arXiv:2206.12037.
"""

import math

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError


def legs(size: int) -> tuple[Tensor, Tensor]:
    """A [N, N] and B [N] of dh/dt = A h + B u, whose state holds the coefficients of the past of u in N polynomials.

    A[n, k] = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, 0 above;  B[n] = sqrt(2n+1). In float64.
    """
    n = torch.arange(size, dtype=torch.float64)
    B = torch.sqrt(2 * n + 1)
    return -torch.outer(B, B).tril(-1) - torch.diag(n + 1), B


def legt(size: int) -> tuple[Tensor, Tensor]:
    """As `legs`, of the last two units of time in Legendre polynomials.

    A[n, k] = -sqrt((2n+1)(2k+1)) / 2, times (-1)^(n-k) above the diagonal;  B[n] = sqrt(2n+1) / 2.
    """
    n = torch.arange(size, dtype=torch.float64)
    root, odd = torch.sqrt(2 * n + 1), (n[:, None] - n) % 2
    return -torch.outer(root, root) * torch.where(n[:, None] < n, 1 - 2 * odd, 1) / 2, root / 2


def lagt(size: int) -> tuple[Tensor, Tensor]:
    """As `legs`, of the past with a weight that fades as exp(-t), in Laguerre functions: A is -1 below the diagonal and
    -1/2 on it, B is 1."""
    ones = torch.ones(size, size, dtype=torch.float64)
    return torch.eye(size, dtype=torch.float64) / 2 - ones.tril(), ones[0]


def fout(size: int) -> tuple[Tensor, Tensor]:
    """As `legs`, of the last two units of time in sines and cosines: N/2 pairs of frequency pi n, from n = 0 on; of the
    first, the sine of nothing stays zero. B is sqrt(2) at cosines, 1 at the first, 0 at sines; A = turning - B B^T."""
    turning, B = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    B[::2], B[0] = math.sqrt(2), 1
    for n in range(1, size // 2):
        turning[2 * n, 2 * n + 1], turning[2 * n + 1, 2 * n] = -math.pi * n, math.pi * n
    return turning - torch.outer(B, B), B


def in_pairs(state_size: int) -> int:
    """The size of a real system that is kept as one half of its modes. Raises InputError if it has no halves."""
    if options.count("state_size", state_size) % 2:
        raise InputError(f"state_size is {state_size!r}; expected an even int, 2 or more: modes come in pairs")
    return state_size


BASES = {"legs": legs, "legt": legt, "lagt": lagt, "fout": fout}


def basis(name: str, size: int) -> tuple[Tensor, Tensor]:
    """A [N, N] and B [N] by the name of the basis, in float64. Raises InputError if there is none of that name."""
    return BASES[options.choice("basis", name, tuple(BASES))](size)


def low_rank(name: str, size: int) -> Tensor:
    """P [R, N] for which A + P^T P is normal: a multiple of I, and a skew-symmetric matrix."""
    B = basis(name, size)[1]
    if name == "legt":  # where n is odd, and where it is even
        even = torch.arange(size) % 2 == 0
        return torch.stack([torch.where(even, 0, B), torch.where(even, B, 0)]) * math.sqrt(2)
    return (B if name == "fout" else B / math.sqrt(2))[None]


def normal_modes(normal: Tensor) -> tuple[Tensor, Tensor]:
    """Of a normal matrix [N, N], N even, the eigenvalues [N/2] of positive imaginary part, smallest first, and their
    eigenvectors [N, N/2]. The other half are the conjugates; all eigenvectors together form a unitary matrix."""
    size, half, decay = len(normal), len(normal) // 2, normal.diagonal().mean()
    # The skew-symmetric part times -i is Hermitian, and has the same eigenvectors.
    frequency, vectors = torch.linalg.eigh(-0.5j * (normal - normal.T))
    frequency, vectors = frequency[half:], vectors[:, half:]
    # A pair that does not turn, in `fout` the first: any two directions of it will do. An outline shows no numbers.
    if not normal.is_meta and frequency[0] < 1e-9 * size:
        vectors[:, 0] = torch.eye(size, dtype=vectors.dtype)[:2].T @ torch.tensor([1, 1j], dtype=vectors.dtype) / 2**0.5
    return torch.complex(decay.expand_as(frequency), frequency), vectors


def legs_normal(size: int) -> Tensor:
    """A + P P^T [N, N] with P[n] = sqrt(n + 1/2): the diagonal is -1/2, the rest is skew-symmetric."""
    A, B = legs(size)
    return A + torch.outer(B, B) / 2


def legs_modes(size: int) -> tuple[Tensor, Tensor]:
    """Modes of LegS' normal part, [N/2] and [N, N/2]."""
    return normal_modes(legs_normal(size))


def initial_modes(init: str, state_size: int) -> tuple[Tensor, Tensor]:
    """Im A and B [N/2] at the start, by the name of the initialisation."""
    n = torch.arange(in_pairs(state_size) // 2, dtype=torch.float64)
    ones = torch.ones(state_size // 2, dtype=torch.complex128)
    if init == "lin":
        return math.pi * n, ones
    if init == "inv":
        return state_size / math.pi * (state_size / (2 * n + 1) - 1), ones
    if init == "legs":
        modes, vectors = legs_modes(state_size)
        return modes.imag, vectors.mH @ (legs(state_size)[1] / 2).to(vectors.dtype)
    raise InputError(f"init is {init!r}; expected lin, inv or legs")
