"""Every operation that a step may use, as rows of a table: what `test_corners` evaluates at the ends of its range.

A row is a function of as many numbers as its table says; new operations get new rows.
"""

import math

import torch
from torch.nn import functional as F

aten = torch.ops.aten
INF = math.inf


def powers():
    exponents = (0, 1, 2, 3, 4, 5, 0.5, -0.5, -1, -2, -3, 1.5, 2.5, 1 / 3, 0.25)
    bases = (0.0, 1.0, 2.0, 0.5, -2.0)
    rows = {f"x ** {p:.3g}": lambda x, p=p: x**p for p in exponents}
    return rows | {f"{b} ** x": lambda x, b=b: b**x for b in bases}


ONE = {
    "abs": torch.abs,
    "neg": torch.neg,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "square": torch.square,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "erfc": torch.erfc,
    "log2": torch.log2,
    "log10": torch.log10,
    "sign": torch.sign,
    "sgn": torch.sgn,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "frac": torch.frac,
    "round": torch.round,
    "round, decimals": lambda x: torch.round(x, decimals=2),
    "round, tens": lambda x: torch.round(x, decimals=-1),
    "angle": torch.angle,
    "signbit": torch.signbit,
    "isnan": torch.isnan,
    "isinf": torch.isinf,
    "isposinf": torch.isposinf,
    "isneginf": torch.isneginf,
    "isfinite": torch.isfinite,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu_": lambda x: x.clone().relu_(),
    "leaky_relu": F.leaky_relu,
    "leaky_relu, falling": lambda x: F.leaky_relu(x, -0.5),
    "prelu": lambda x: F.prelu(x[None], torch.full_like(x, 0.25)[None])[0],
    "threshold": lambda x: F.threshold(x, 0.5, 2.0),
    "clamp": lambda x: x.clamp(-1, 3),
    "clamp, from": lambda x: x.clamp(min=0.5),
    "clamp, to": lambda x: x.clamp(max=0.5),
    "clamp_min": lambda x: torch.clamp_min(x, 0.5),
    "clamp_max": lambda x: torch.clamp_max(x, 0.5),
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "tanhshrink": F.tanhshrink,
    "softsign": F.softsign,
    "softplus": F.softplus,
    "softplus, beta": lambda x: F.softplus(x, 2, 6),
    "logsigmoid": F.logsigmoid,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu": F.elu,
    "elu, alpha": lambda x: F.elu(x, 0.5),
    "selu": F.selu,
    "celu": F.celu,
    "celu, alpha": lambda x: F.celu(x, 0.5),
    "logit": torch.logit,
    "logit, eps": lambda x: torch.logit(x, 0.25),
    "entr": torch.special.entr,
    "sinc": torch.sinc,
    "nan_to_num": lambda x: torch.nan_to_num(x, 1.0, 2.0, 3.0),
    "deg2rad": torch.deg2rad,
    "x / 2": lambda x: x / 2,
    "3 / x": lambda x: 3 / x,
    "2 - x": lambda x: 2 - x,
    "masked_fill": lambda x: x.masked_fill(x > 1, 2.0),
    "norm of one": torch.linalg.vector_norm,
    "full_like": lambda x: x + torch.full_like(x, 2.0),
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "ones_like": lambda x: x + torch.ones_like(x),
    "clone": torch.clone,
    **powers(),
}
"""Of one number."""


WITHIN = {
    name: torch.func.grad(ONE[name])
    for name in (
        "exp", "expm1", "exp2", "log1p", "sqrt", "sigmoid", "tanh", "erf", "sin", "tan", "atan", "relu", "leaky_relu",
        "clamp", "clamp_min", "hardtanh", "relu6", "hardswish", "hardshrink", "softshrink", "softplus",
        "logsigmoid", "gelu", "gelu, tanh", "elu", "elu, alpha", "selu", "celu, alpha", "x ** 3", "x ** 1.5",
        "silu", "mish", "logit", "logit, eps", "atanh", "asin", "acosh", "sinc", "rsqrt", "x ** -1", "softsign",
    )
} | {
    "hardsigmoid_backward": lambda x: aten.hardsigmoid_backward(torch.ones_like(x), x.detach()),
    "silu_backward": lambda x: aten.silu_backward(torch.ones_like(x), x.detach()),
    "logit_backward": lambda x: aten.logit_backward(torch.ones_like(x), x.detach()),
    "log_softmax": lambda x: torch.func.grad(lambda v: torch.log_softmax(v, 0)[0])(torch.stack([x, 2 * x]))[0],
    "softmax": lambda x: torch.func.grad(lambda v: torch.softmax(v, 0)[0])(torch.stack([x, 2 * x]))[0],
    "layer_norm": lambda x: torch.func.grad(lambda v: F.layer_norm(v, (2,))[0])(torch.stack([x, 2 * x]))[0],
    "norm": lambda x: torch.func.grad(torch.linalg.vector_norm)(torch.stack([x, 2 * x]))[0],
}  # fmt: skip
"""Of one number: slopes that a step takes itself."""

TWO = {
    "add": torch.add,
    "add, alpha": lambda a, b: torch.add(a, b, alpha=2),
    "sub": torch.sub,
    "sub, alpha": lambda a, b: torch.sub(a, b, alpha=2),
    "rsub": torch.rsub,
    "mul": torch.mul,
    "div": torch.div,
    "addcmul": lambda a, b: torch.addcmul(a, b, b, value=0.5),
    "addcdiv": lambda a, b: torch.addcdiv(a, b, a, value=0.5),
    "lerp": lambda a, b: torch.lerp(a, b, 0.25),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
    "hypot": torch.hypot,
    "atan2": torch.atan2,
    "fmod": torch.fmod,
    "remainder": torch.remainder,
    "floor_divide": lambda a, b: torch.floor_divide(a.detach(), b.detach()),
    "div, trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "div, floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "copysign": torch.copysign,
    "heaviside": lambda a, b: torch.heaviside(a.detach(), b.detach()),
    "logical_xor": torch.logical_xor,
    "xor": lambda a, b: (a < b) ^ (a > 0),
    "xlogy": torch.xlogy,
    "xlog1py": torch.special.xlog1py,
    "prelu": lambda a, b: F.prelu(a[None], b[None])[0],
    "logaddexp": torch.logaddexp,
    "logaddexp2": torch.logaddexp2,
    "where": lambda a, b: torch.where(a < b, a, b),
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "not": lambda a, b: ~(a < b),
    "and, or": lambda a, b: ((a < b) & (a > 0)) | (b > 1),
    "clamp, from": lambda a, b: a.clamp(min=b),
    "clamp, to": lambda a, b: a.clamp(max=b),
    "clamp, both": lambda a, b: torch.clamp(torch.full_like(a, 2.0), a, b),
    "glu": lambda a, b: F.glu(torch.stack([a, b]))[0],
    "l1_loss": lambda a, b: F.l1_loss(a, b),
    "mse_loss": lambda a, b: F.mse_loss(a, b),
    "huber_loss": F.huber_loss,
    "huber_loss, delta": lambda a, b: F.huber_loss(a, b, "none", 2.0),
    "smooth_l1_loss": F.smooth_l1_loss,
    "smooth_l1_loss, beta": lambda a, b: F.smooth_l1_loss(a, b, reduction="sum", beta=2.0),
    "tanh_backward": aten.tanh_backward,
    "sigmoid_backward": aten.sigmoid_backward,
    "threshold_backward": lambda a, b: aten.threshold_backward(a, b, 0.5),
    "dist": torch.dist,
}
"""Of two numbers."""


def norms():
    rows = {f"norm, {p}": lambda v, p=p: torch.linalg.vector_norm(v, p) for p in (0.5, 1, 1.5, 2, 3, INF, -INF)}
    rows["norm, 0"] = lambda v: torch.linalg.vector_norm(v, 0) + 0 * v[0]
    rows["norm, kept"] = lambda v: v.norm(dim=0, keepdim=True)[0]
    rows["norm of each"] = lambda v: torch.linalg.vector_norm(v[:, None], dim=1)[0]
    return rows


PAIR = norms() | {
    "dist": lambda v: torch.dist(v, torch.ones_like(v)),
    "logsumexp": lambda v: torch.logsumexp(v, 0),
    "sum": torch.sum,
    "amax": torch.amax,
    "dot": lambda v: v.dot(v.flip(0)),
    "vdot": lambda v: torch.vdot(v, v.flip(0)),
    "mm": lambda v: (torch.stack([v, v.flip(0)]) @ v[:, None])[0, 0],
    "addmv": lambda v: torch.addmv(v, torch.stack([v, v.flip(0)]), v, beta=0.5, alpha=2.0)[0],
    "addmm": lambda v: torch.addmm(v[:, None], torch.stack([v, v.flip(0)]), v[:, None], beta=0.5, alpha=2.0)[0, 0],
    "bmm": lambda v: torch.bmm(v.view(1, 2, 1), v.view(1, 1, 2))[0, 0, 1],
}
"""Of a vector of two, anywhere in the range: sums of them have one order only."""

VECTOR = {
    "mean": torch.mean,
    "var": torch.var,
    "var_mean": lambda v: torch.var_mean(v)[0],
    "std": torch.std,
    "std, whole": lambda v: v.std(correction=0),
    "std_mean": lambda v: sum(torch.std_mean(v)),
    "normalize": lambda v: F.normalize(v, dim=0)[0],
    "normalize, inf": lambda v: F.normalize(v, INF, 0)[0],
    "cosine_similarity": lambda v: F.cosine_similarity(v, v.flip(0) + 1, dim=0),
    "pairwise_distance": lambda v: F.pairwise_distance(v, v.flip(0)),
    "softmax": lambda v: torch.softmax(v, 0)[0],
    "log_softmax": lambda v: torch.log_softmax(v, 0)[0],
    "layer_norm": lambda v: F.layer_norm(v, (2,), v, torch.ones_like(v))[0],
    "rms_norm": lambda v: F.rms_norm(v, (2,))[0],
}
"""Of a vector of two whose squares are in the range: results are differences of terms."""

VIEW = {
    "alias": lambda v: aten.alias(v)[0],
    "detach": lambda v: v[0] + 0 * v.detach()[1],
    "_reshape_alias": lambda v: aten._reshape_alias(v, [2, 1], [1, 1])[1, 0],
    "view": lambda v: v.view(1, 2)[0, 1],
    "reshape": lambda v: v.reshape(2, 1)[1, 0],
    "_unsafe_view": lambda v: aten._unsafe_view(v, [1, 2])[0, 1],
    "unsqueeze": lambda v: v.unsqueeze(0)[0, 1],
    "squeeze": lambda v: v.view(1, 2).squeeze(0)[1],
    "permute": lambda v: v.view(1, 2).permute(1, 0)[1, 0],
    "t": lambda v: v.view(1, 2).t()[1, 0],
    "transpose": lambda v: v.view(1, 2).transpose(0, 1)[1, 0],
    "expand": lambda v: v.expand(3, 2)[2, 1],
    "slice": lambda v: v[1:][0],
    "slice, every other": lambda v: v[::2][0],
    "unbind": lambda v: v.unbind()[1],
    "split": lambda v: v.split(1)[1][0],
    "split_with_sizes": lambda v: v.split([1, 1])[1][0],
    "cat": lambda v: torch.cat([v, v.flip(0)])[2],
    "stack": lambda v: torch.stack([v, v.flip(0)])[1, 0],
    "flip": lambda v: v.flip(0)[0],
    "new_zeros": lambda v: v[0] + v.new_zeros(2)[1],
    "new_ones": lambda v: v[0] + v.new_ones(2)[1],
    "new_full": lambda v: v[0] + v.new_full((2,), 3.0)[1],
    "select_backward": lambda v: aten.select_backward(v[0], [2], 0, 1)[1],
    "slice_backward": lambda v: aten.slice_backward(v, [4], 0, 1, 3, 1)[2],
    "_to_copy": lambda v: (v > 1).to(v.dtype)[0] + v[1],
    "roll": lambda v: v.roll(1)[0],
    "roll, two axes": lambda v: v.view(2, 1).expand(2, 3).roll((1, 2), (0, 1))[0, 0],
    "diagonal": lambda v: torch.stack([v, v.flip(0)]).diagonal()[1],
    "unfold": lambda v: torch.cat([v, v]).unfold(0, 2, 1)[1, 0],
    "pad": lambda v: F.pad(v, (1, 2), value=0.5)[2],
    "pad, cut": lambda v: F.pad(v, (-1, 1))[0],
    "index": lambda v: v[[1, 0]][0],
    "index, a mask": lambda v: v[torch.tensor([False, True])][0],
    "index, found": lambda v: v[torch.argmax(v)[None]][0],
    "index, rows found": lambda v: torch.stack([v, v.flip(0)])[torch.argmin(v)[None], [1]][0],
    "index_select": lambda v: v.index_select(0, torch.tensor([1]))[0],
    "take": lambda v: torch.take(v.view(2, 1), torch.tensor([1]))[0],
    "gather": lambda v: v.gather(0, torch.tensor([1, 1, 0]))[0],
    "gather, found": lambda v: v.gather(0, torch.argmax(v)[None])[0],
    "embedding": lambda v: F.embedding(torch.tensor([1]), v.view(2, 1))[0, 0],
    "scatter": lambda v: v.scatter(0, torch.tensor([1]), v[:1])[1],
    "scatter, found": lambda v: v.scatter(0, torch.argmax(v)[None], v[:1]).flip(0)[0],
    "scatter_add": lambda v: v.scatter_add(0, torch.tensor([1, 1]), v)[1],
    "scatter_reduce": lambda v: v.scatter_reduce(0, torch.tensor([1]), v[:1], "sum")[1],
    "index_add": lambda v: v.index_add(0, torch.tensor([1]), v[:1], alpha=2)[1],
    "index_copy": lambda v: v.index_copy(0, torch.tensor([1]), v[:1])[1],
    "index_fill": lambda v: v.index_fill(0, torch.tensor([1]), 0.5)[1] + v[0],
    "index_put": lambda v: v.index_put((torch.tensor([1]),), v[0])[1],
    "index_put, added": lambda v: v.index_put((torch.tensor([1, 1]),), v, accumulate=True)[1],
    "_unsafe_index_put": lambda v: aten._unsafe_index_put(v, [torch.tensor([1])], v[0])[1],
    "slice_scatter": lambda v: torch.slice_scatter(v, v[:1], 0, 1, 2)[1],
    "select_scatter": lambda v: torch.select_scatter(v, v[0], 0, 1)[1] if v.dim() == 1 else v[1],
    "block_diag": lambda v: torch.block_diag(v[:1], v)[1, 2],
    "fill_": lambda v: v.clone().fill_(0.5)[0] + v[1],
    "zero_": lambda v: v.clone().zero_()[0] + v[1],
    "diagonal_scatter": lambda v: torch.diagonal_scatter(torch.stack([v, v]), v.flip(0))[0, 0],
}
"""Of a vector of two: what only moves numbers."""

ORDER = {
    "max": torch.max,
    "min": torch.min,
    "max, axis": lambda v: v.max(0).values,
    "min, axis": lambda v: v.min(0).values,
    "max, place": lambda v: v.max(0).indices + v[0],
    "amin": torch.amin,
    "aminmax": lambda v: torch.aminmax(v).min,
    "argmax": lambda v: torch.argmax(v) + v[0],
    "argmin": lambda v: torch.argmin(v) + v[0],
    "cummax": lambda v: torch.cummax(v, 0).values[1],
    "cummin": lambda v: torch.cummin(v, 0).values[1],
    "cummax, place": lambda v: torch.cummax(v, 0).indices[1] + v[0],
    "sort": lambda v: v.sort().values[0],
    "sort, down": lambda v: v.sort(descending=True).values[0],
    "sort, place": lambda v: v.sort().indices[1] + v[0],
    "topk": lambda v: v.topk(1).values[0],
    "topk, least": lambda v: v.topk(2, largest=False).values[1],
    "kthvalue": lambda v: v.kthvalue(2).values,
    "median": torch.median,
    "median, axis": lambda v: v.median(0).values,
    "bucketize": lambda v: torch.bucketize(v, torch.tensor([-1.0, 0.5, 3.0], dtype=v.dtype))[0] + v[1],
    "searchsorted": lambda v: torch.searchsorted(torch.tensor([0.0, 0.5], dtype=v.dtype), v, right=True)[0] + v[1],
    "max_pool2d": lambda v: F.max_pool2d(v.view(1, 1, 1, 2), (1, 2))[0, 0, 0, 0],
    "max_pool3d": lambda v: F.max_pool3d(v.view(1, 1, 1, 1, 2), (1, 1, 2))[0, 0, 0, 0, 0],
    "adaptive_max_pool2d": lambda v: F.adaptive_max_pool2d(v.view(1, 1, 1, 2), 1)[0, 0, 0, 0],
    "adaptive_max_pool3d": lambda v: F.adaptive_max_pool3d(v.view(1, 1, 1, 1, 2), 1)[0, 0, 0, 0, 0],
}
"""Of a vector of two: what chooses."""

SUMMED = {
    "cumsum": lambda v: v.cumsum(0)[1],
    "cumprod": lambda v: v.cumprod(0)[1],
    "prod": torch.prod,
    "logcumsumexp": lambda v: torch.logcumsumexp(v, 0)[1],
    "baddbmm": lambda v: torch.baddbmm(v.view(1, 2, 1), v.view(1, 2, 1), v[:1].view(1, 1, 1), beta=0.5)[0, 1, 0],
    "convolution": lambda v: F.conv1d(v.view(1, 1, 2), v.view(1, 1, 2))[0, 0, 0],
    "convolution, transposed": lambda v: F.conv_transpose1d(v.view(1, 1, 2), v[:1].view(1, 1, 1))[0, 0, 1],
    "avg_pool2d": lambda v: F.avg_pool2d(v.view(1, 1, 1, 2), (1, 2))[0, 0, 0, 0],
    "avg_pool3d": lambda v: F.avg_pool3d(v.view(1, 1, 1, 1, 2), (1, 1, 2))[0, 0, 0, 0, 0],
    "adaptive_avg_pool2d": lambda v: aten._adaptive_avg_pool2d(v.view(1, 1, 1, 2), [1, 1])[0, 0, 0, 0],
    "adaptive_avg_pool3d": lambda v: aten._adaptive_avg_pool3d(v.view(1, 1, 1, 1, 2), [1, 1, 1])[0, 0, 0, 0, 0],
    "fft": lambda v: torch.view_as_real(torch.fft.fft(torch.complex(v, v.flip(0))))[1, 0],
    "rfft": lambda v: torch.fft.rfft(v)[0].real,
    "irfft": lambda v: torch.fft.irfft(torch.complex(v, torch.zeros_like(v)), n=2)[0],
    "cdist": lambda v: torch.cdist(v.view(1, 2), v.flip(0).view(1, 2), p=1.0)[0, 0],
    "pdist": lambda v: F.pdist(v.view(2, 1), 1.0)[0],
    "bilinear": lambda v: F.bilinear(v[:1], v[1:], v[:1].view(1, 1, 1))[0],
}
"""Of a vector of two: sums and products of a few numbers."""


def matrix(v):
    """One that has an inverse, whatever the two numbers."""
    return torch.stack([v + torch.tensor([9, 0]), v.flip(0) - torch.tensor([0, 9])])


def lower(v):
    return torch.stack([v + 5, v + 7])


SOLVED = {
    "inv": lambda v: torch.linalg.inv(matrix(v))[0, 1],
    "solve": lambda v: torch.linalg.solve(matrix(v), v)[0],
    "det": lambda v: torch.linalg.det(matrix(v)),
    "slogdet": lambda v: torch.linalg.slogdet(matrix(v))[1],
    "cholesky": lambda v: torch.linalg.cholesky(torch.outer(v, v) + torch.eye(2, dtype=v.dtype))[1, 1],
    "cholesky_solve": lambda v: torch.cholesky_solve(v[:, None], lower(v).tril())[1, 0],
    "cholesky_inverse": lambda v: torch.cholesky_inverse(lower(v).tril())[1, 0],
    "solve_triangular": lambda v: torch.linalg.solve_triangular(lower(v), v[:, None], upper=False)[1, 0],
    "matrix_exp": lambda v: torch.linalg.matrix_exp(torch.stack([v, v.flip(0)]) / 8)[0, 1],
}
"""Of a vector of two, moderate ones: linear algebra."""
