"""The Kalman filter, with everything it assumes of the world learned."""

import torch
from torch import nn

from recurra import Lane, Recurrence, constant


class Kalman(Recurrence):
    """Filters side by side, each of N numbers x_t (observed) and a belief of mean m [N] and covariance P [N, N]:

        predict    m' = A m,    P' = A P A^T + Q
        correct    S = C P' C^T + R,    K = P' C^T S^{-1},    m = m' + K (x_t - C m'),    P = P' - K C P'.

    Lane: a head of N channels. y_t = m_t. Q and R are diagonal, the exponentials of what is learned. K comes of a
    linear system and not of an inverse, and P is made symmetric again, which rounding may undo.

    Source: A New Approach to Linear Filtering and Prediction Problems, Kalman, 1960.
    """

    lane = Lane.HEAD

    def __init__(self, width: int, size: int = 4):
        super().__init__(width)
        heads = width // size
        self.A = nn.Parameter(0.9 * torch.eye(size) + 0.1 * torch.randn(heads, size, size))
        self.C = nn.Parameter(torch.eye(size) + 0.1 * torch.randn(heads, size, size))
        self.log_noise = nn.Parameter(0.1 * torch.randn(2, heads, size))

    def start(self):
        heads, size, _ = self.A.shape
        return {"m": torch.zeros(heads, size), "P": torch.eye(size).repeat(heads, 1, 1)}

    def inputs(self, x):
        Q, R = torch.diag_embed(torch.exp(self.log_noise))
        heads = x.unflatten(-1, (-1, Q.shape[1]))
        return {"x": heads, "A": constant(self.A), "C": constant(self.C), "Q": constant(Q), "R": constant(R)}

    def step(self, m, P, x, A, C, Q, R):
        m, P = A @ m, A @ P @ A.T + Q
        S = C @ P @ C.T + R
        K = torch.linalg.solve(S, C @ P).T  # S and P are symmetric
        m = m + K @ (x - C @ m)
        P = P - K @ C @ P
        return (m, (P + P.T) / 2), m
