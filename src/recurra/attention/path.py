"""PaTH attention: positions are products of Householder-like maps between key and query, made of the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from recurra import options
from recurra.attention.moving import Chunks, MovingKeys
from recurra.contract import Paper
from recurra.nn.linear import Linear
from recurra.problem import Lane, cast, compute_dtype
from recurra.windows import Past


class PathAttention(MovingKeys):
    """y_t = sum_i softmax_i(q_t . H_t H_{t-1} ... H_{i+1} k_i / sqrt(K) + d_ti) v_i over i = 1..t
    H_t = I - b_t w_t w_t^T,  d_ti = log f_{i+1} + ... + log f_t.

    Lane: a head; keys: [S, K], which hold H_t ... H_{i+1} k_i, and values: [S, K], K = D / heads; q, k, v are linear
    in x, b_t = 2 sigmoid(w_b x_t + c): a number, w: [K], of length one, made of silu(conv(W_2 W_1 x)), conv depthwise
    of `kernel` taps, W_1: [rank, D]. The result is W_o y.
    With `forget`, entries fade by f_t = sigmoid(w_f x_t + b_f), and decays: [S] hold d_ti; without, d = 0.

    Source: PaTH Attention: Position Encoding via Accumulating Householder Transformations, Yang, Shen, Wen, Tan,
    Mishra, Ren, Panda, Kim, 2025, arXiv:2505.16381; `forget` is its PaTH-FoX.
    """

    lane = Lane.HEAD
    paper = Paper(
        "PaTH Attention: Position Encoding via Accumulating Householder Transformations", "Yang et al.", 2025,
        "2505.16381",
    )  # fmt: skip
    moves = ("w", "beta")
    chunk = 64

    def __init__(self, width: int, heads: int = 4, kernel: int = 3, rank: int = 32, forget: bool = False):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.size, kernel = width // heads, options.count("kernel", kernel)
        self.windows = {"w": (width, kernel - 1)}
        self.to_query, self.to_key, self.to_value = (Linear(width, width, bias=False) for _ in range(3))
        self.to_w = nn.Sequential(
            Linear(width, options.count("rank", rank), bias=False), Linear(rank, width, bias=False)
        )
        self.conv_weight = nn.Parameter(torch.empty(width, kernel).uniform_(-1, 1) * kernel**-0.5)
        self.to_beta = Linear(width, heads)
        self.to_gate = Linear(width, heads) if options.flag("forget", forget) else None
        self.growing = ("keys", "values", "decays") if forget else ("keys", "values")
        self.to_output = Linear(width, width, bias=False)

    def start(self, like: Tensor) -> dict[str, Tensor]:
        values = like.new_zeros(self.heads, 0, self.size)
        keys = values.to(compute_dtype(like.dtype))  # they change at every time step
        return {"keys": keys, "values": values} | ({} if self.to_gate is None else {"decays": keys[..., 0]})

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        dtype = compute_dtype(x.dtype)
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)) for to in (self.to_query, self.to_key, self.to_value))
        w = past.convolve("w", self.to_w(x), self.conv_weight, silu=True)
        w = cast(w, dtype).unflatten(-1, (self.heads, -1))
        w = w * torch.rsqrt(w.square().sum(-1, keepdim=True) + 1e-6)
        read = {"q": q, "k": k, "v": v, "w": w, "beta": 2 * torch.sigmoid(cast(self.to_beta(x), dtype))}
        return read if self.to_gate is None else read | {"log_gate": logsigmoid(cast(self.to_gate(x), dtype))}

    def step(
        self, keys: Tensor, values: Tensor, *decays: Tensor, present: Tensor,
        q: Tensor, k: Tensor, v: Tensor, w: Tensor, beta: Tensor, **gate: Tensor,
    ):  # fmt: skip
        keys = torch.cat([keys - beta * torch.outer(keys @ w, w), k[None]])
        values = torch.cat([values, v[None]])
        decays = tuple(pad(part + gate["log_gate"], (0, 1)) for part in decays)
        scores = sum(decays, keys @ q * self.size**-0.5)
        seen = pad(present, (0, 1), value=True)
        y = torch.softmax(torch.where(seen, scores, float("-inf")), -1) @ values
        return (keys, values, *decays), y

    def chunks(self, q: Tensor, k: Tensor, *moves: Tensor) -> Chunks:
        w, beta = moves
        scaled, seen = beta[..., None] * w, (q @ w.mT).tril()
        # H_t ... H_1 = I - (sum over s of u_s w_s^T): a triangular system says what each u is, and what keys lose.
        rhs = torch.cat([scaled, (scaled @ k.mT).tril(-1)], -1)
        u, lost = torch.linalg.solve_triangular(
            (scaled @ w.mT).tril(-1), rhs, upper=False, unitriangular=True
        ).split([w.shape[-1], k.shape[-2]], -1)  # fmt: skip
        return Chunks(
            q=q - seen @ u,
            k=k - lost.mT @ w,
            scores=q @ k.mT - seen @ lost,
            back=lambda q, i: q - (q @ w[:, :, i].mT) @ u[:, :, i],
        )

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))
