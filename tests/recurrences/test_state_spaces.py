"""State spaces, and attention with a fixed query, against their papers written out over the whole batch."""

import math

import pytest
import torch
from torch.nn.functional import gelu, linear

import recurra
from recurra.recurrences.discretisation import bilinear, zoh
from recurra.recurrences.hippo import legs, legs_modes, legs_normal
from recurra.recurrences.lmu import legendre_window
from recurra.testing.tolerances import assert_close

D, B, T = 8, 3, 11


def convolution(kernel, x):
    """y[b, t, d] = sum over k <= t of kernel[d, k] x[b, t - k, d]."""
    return torch.stack([(kernel[:, : t + 1].flip(1).T * x[:, : t + 1]).sum(1) for t in range(x.shape[1])], 1)


def diagonal_kernel(A, weight, dt):
    """sum over n of weight[d, n] (exp(dt A) - 1) / A exp(t dt A), [D, T]."""
    powers = torch.exp((dt[:, None] * A)[..., None] * torch.arange(T))
    return (weight[..., None] * ((torch.exp(dt[:, None] * A) - 1) / A)[..., None] * powers).sum(1)


def plane(layer):
    return torch.complex(-torch.exp(layer.A_log), layer.A_imag).to(torch.complex128)


def s4d(layer, x):
    weight = torch.view_as_complex(layer.B) * torch.view_as_complex(layer.C)
    dt = torch.exp(layer.dt_log).double()
    kernel = 2 * diagonal_kernel(plane(layer), weight, dt).real
    left, right = layer.to_output(gelu(convolution(kernel.to(x.dtype), x) + layer.D * x)).chunk(2, -1)
    return left * torch.sigmoid(right)


def s4d_bilinear(layer, x):
    dt = torch.exp(layer.dt_log)[:, None].double()
    inverse = 1 / (1 - dt / 2 * plane(layer))
    step, gain = inverse * (1 + dt / 2 * plane(layer)), inverse * dt * torch.view_as_complex(layer.B)
    h, out = torch.zeros(B, *step.shape, dtype=step.dtype), []
    for t in range(T):
        h = step * h + gain * x[:, t, :, None]
        y = torch.view_as_complex(layer.C) * h
        out.append((y + y.conj()).sum(-1).real.to(x.dtype) + layer.D * x[:, t])
    left, right = layer.to_output(gelu(torch.stack(out, 1))).chunk(2, -1)
    return left * torch.sigmoid(right)


def dss(layer, x):
    kernel = diagonal_kernel(plane(layer), torch.view_as_complex(layer.w), torch.exp(layer.dt_log).double()).real
    return layer.to_output(gelu(convolution(kernel.to(x.dtype), x) + layer.D * x))


def s5(layer, x):
    """With both of each pair of conjugates, whose imaginary parts cancel."""
    n = len(layer.dt_log)
    A, dt = plane(layer), torch.exp(layer.dt_log).double()
    inward = torch.complex(layer.B[:n], layer.B[n:])
    outward = torch.complex(layer.C[:, :n], layer.C[:, n:])
    A, dt = torch.cat([A, A.conj()]), torch.cat([dt, dt])
    inward, outward = torch.cat([inward, inward.conj()]), torch.cat([outward, outward.conj()], 1)
    step = torch.exp(dt * A)
    inward = ((step - 1) / A)[:, None] * inward
    h, out = torch.zeros(B, 2 * n, dtype=step.dtype), []
    for t in range(T):
        h = step * h + x[:, t].to(step.dtype) @ inward.T
        y = h @ outward.T.to(step.dtype)
        assert y.imag.abs().max() < 1e-5
        out.append(y.real.to(x.dtype) + layer.D * x[:, t])
    g = gelu(torch.stack(out, 1))
    return g * torch.sigmoid(layer.to_gate(g))


def lmu(layer, x):
    """A and B by the formula, one by one; zero-order hold by the eigenvalues."""
    n, theta = 5, 7.0
    A = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            A[i, j] = (2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1))
    b = torch.tensor([(2 * i + 1) * (-1) ** i for i in range(n)], dtype=torch.float64)
    values, vectors = torch.linalg.eig(A)
    step = (vectors @ torch.diag(torch.exp(values / theta)) @ torch.linalg.inv(vectors)).real
    gain = torch.linalg.solve(A, (step - torch.eye(n)) @ b)
    u, m, out = layer.to_signal(x), torch.zeros(B, 2, n), []
    for t in range(T):
        m = m @ step.T.to(x.dtype) + u[:, t, :, None] * gain.to(x.dtype)
        out.append(torch.tanh(linear(torch.cat([x[:, t], m.mT.flatten(1)], -1), *layer.to_output.parameters())))
    return torch.stack(out, 1)


def whole(pairs):
    """Modes, or what goes with them, and their conjugates."""
    return torch.cat([pairs, pairs.conj()], -1)


def dense(layer):
    """A [D, N, N], B and C [D, N] of S4, without any trick."""
    P, B, C = (whole(torch.view_as_complex(p.detach()).to(torch.complex128)) for p in (layer.P, layer.B, layer.C))
    return torch.diag_embed(whole(plane(layer).detach())) - P.mT @ P.conj(), B, C


def trapezoidal(A, B, C, dt, rule, u):
    """Both sides of the step solved as they stand."""
    A, B = A.to(torch.complex128), B.to(torch.complex128)
    eye = torch.eye(A.shape[-1], dtype=A.dtype)
    left = torch.linalg.inv(eye - rule * dt[:, None, None] * A)
    after, gain = left @ (eye + (1 - rule) * dt[:, None, None] * A), (left @ (dt[:, None] * B)[..., None])[..., 0]
    h, out = torch.zeros(len(u), *B.shape, dtype=A.dtype), []
    for t in range(T):
        h = torch.einsum("dij,bdj->bdi", after, h) + gain * u[:, t, :, None]
        out.append((C * h).sum(-1).real.to(u.dtype))
    return torch.stack(out, 1)


def mixed(layer, y):
    left, right = layer.to_output(gelu(y)).chunk(2, -1)
    return left * torch.sigmoid(right)


def s4(layer, x):
    A, inward, outward = dense(layer)
    return mixed(layer, trapezoidal(A, inward, outward, torch.exp(layer.dt_log).double(), 0.5, x) + layer.D * x)


def lssl(layer, x):
    A, inward, dt = layer.A.expand(D, -1, -1), layer.B.expand(D, -1), torch.exp(layer.dt_log).double()
    return mixed(layer, trapezoidal(A, inward, layer.C, dt, layer.rule, x) + layer.D * x)


def h3(layer, x):
    q, k, v = layer.to_qkv(x).chunk(3, -1)
    taps = torch.nn.functional.pad(layer.shift.flip(1), (0, T - layer.shift.shape[1]))
    u = convolution(taps, k) * v
    weight = torch.view_as_complex(layer.B) * torch.view_as_complex(layer.C)
    kernel = 2 * diagonal_kernel(plane(layer), weight, torch.exp(layer.dt_log).double()).real
    return layer.to_output(q * (convolution(kernel.to(x.dtype), u) + layer.D * u))


def conv_s5(layer, x):
    """Frame by frame, the convolutions tap by tap."""
    n, (F, G), edge = len(layer.dt_log), layer.frame, layer.B.shape[-1] // 2

    def within(frame, weight):
        padded = torch.nn.functional.pad(frame, (edge, edge, edge, edge))
        taps = [(i, j) for i in range(2 * edge + 1) for j in range(2 * edge + 1)]
        return sum(torch.einsum("oc,bcfg->bofg", weight[:, :, i, j], padded[..., i : i + F, j : j + G])
                   for i, j in taps)  # fmt: skip

    step = torch.exp(torch.exp(layer.dt_log) * plane(layer))[:, None, None]
    gain = (step - 1) / plane(layer)[:, None, None]
    h, out = torch.zeros(B, n, F, G, dtype=torch.complex128), []
    for frame in x.unflatten(-1, (-1, F, G)).unbind(1):
        pushed = within(frame, layer.B)
        h = step * h + gain * torch.complex(pushed[:, :n], pushed[:, n:])
        seen = torch.cat([h.real, -h.imag], 1).to(x.dtype)
        out.append((2 * within(seen, layer.C) + within(frame, layer.D)).flatten(1))
    return torch.stack(out, 1)


def aaren(layer, x):
    """Softmax over all that came before, for each time step apart."""
    key, value = (linear(x, to.weight).unflatten(-1, (layer.heads, -1)) for to in (layer.to_key, layer.to_value))
    scores = torch.einsum("bthd,hd->bth", key, layer.query) / math.sqrt(layer.size)
    out = [(scores[:, : t + 1].softmax(1)[..., None] * value[:, : t + 1]).sum(1).flatten(1) for t in range(x.shape[1])]
    return layer.to_output(torch.stack(out, 1))


EQUATIONS = {
    "s4d": (s4d, {"state_size": 6}),
    "s4d, lin": (s4d, {"state_size": 6, "init": "lin", "dt_max": 1.0}),
    "s4d, inv": (s4d, {"state_size": 6, "init": "inv", "dt_min": 0.1, "dt_max": 1.0}),
    "s4d, bilinear": (s4d_bilinear, {"state_size": 6, "discretisation": "bilinear"}),
    "dss": (dss, {"state_size": 5}),
    "s5": (s5, {"state_size": 12, "blocks": 3}),
    "s4": (s4, {"state_size": 6}),
    "s4, legt": (s4, {"state_size": 6, "basis": "legt", "dt_max": 1.0}),
    "s4, fout": (s4, {"state_size": 6, "basis": "fout", "dt_max": 1.0}),
    "lssl": (lssl, {"state_size": 5}),
    "lssl, lagt": (lssl, {"state_size": 5, "basis": "lagt", "rule": 0.8, "dt_max": 1.0}),
    "h3": (h3, {"state_size": 6, "kernel": 3}),
    "conv-s5": (conv_s5, {"state_size": 6, "height": 2, "breadth": 2}),
    "lmu": (lmu, {"memory": 5, "theta": 7.0, "signals": 2}),
    "aaren": (aaren, {"heads": 2}),
}
HELD = {name.split(",")[0] for name in EQUATIONS}
"""The layers that are held to their papers here."""


@pytest.mark.parametrize("name", EQUATIONS)
def test_layer_is_its_paper(name):
    equations, options = EQUATIONS[name]
    layer = recurra.layer(name.split(",")[0], D, **options)
    x = torch.randn(B, T, D)
    assert_close("y", layer(x)[0], equations(layer, x))


# --- kernels, steps and starts ----------------------------------------------------------------------------------------
def test_s4_is_a_convolution_by_its_cauchy_kernel():
    """The paper's way to the kernel: its generating function at roots of unity, by sums of 1 / (z - a)."""
    L, layer = 64, recurra.layer("s4", 2, state_size=8, dt_min=0.05).double()
    A, inward, outward = dense(layer)
    a, P = whole(plane(layer).detach()), whole(torch.view_as_complex(layer.P.detach()))
    dt, eye = torch.exp(layer.dt_log.detach())[:, None], torch.eye(8, dtype=A.dtype)
    step = torch.linalg.solve(eye - dt[..., None] / 2 * A, eye + dt[..., None] / 2 * A)
    ends = (outward[:, None] @ (eye - torch.linalg.matrix_power(step, L)))[:, 0]
    z = torch.exp(-2j * torch.pi * (torch.arange(L) + 0.0).double() / L)
    # At z = -1, a pole of the map to the left half-plane, the limit is what two numbers beside it come to.
    z = torch.where((z + 1).abs() < 1e-9, -1 + 1e-7j, z)
    g = 2 / dt * (1 - z) / (1 + z)

    def cauchy(left, right):
        return ((left * right)[:, None] / (g[..., None] - a[:, None])).sum(-1)

    p = P[:, 0]
    woodbury = cauchy(ends, p) * cauchy(p.conj(), inward) / (1 + cauchy(p.conj(), p))
    kernel = torch.fft.ifft(2 / (1 + z) * (cauchy(ends, inward) - woodbury)).real
    x = torch.randn(1, L, 2).double()
    assert_close("y", layer(x, engine="convolution")[0], mixed(layer, convolution(kernel, x) + layer.D * x))


@pytest.mark.parametrize("rule", [zoh, bilinear])
def test_discretisation_tends_to_the_differential_equation(rule):
    A = torch.tensor([-0.5 + 3j, -2.0 + 0j, -1e-3 + 50j], dtype=torch.complex128)
    t, count = 0.7, 20000
    step, gain = rule(A, torch.tensor(t / count, dtype=torch.float64))
    reached = step**count
    assert (reached - torch.exp(t * A)).abs().max() < 1e-4
    assert (gain * (1 - reached) / (1 - step) - (torch.exp(t * A) - 1) / A).abs().max() < 1e-4


def test_zoh_keeps_its_digits_at_small_steps():
    A, dt = torch.tensor([-0.5 + 1e-3j], dtype=torch.complex64), torch.tensor([1e-5])
    assert_close("gain / dt", zoh(A, dt)[1] / dt, torch.ones_like(A) * (1 - 2.5e-6))


# --- initialisation ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["s4d", "s5", "dss"])
def test_steps_are_log_uniform(name):
    layer = recurra.layer(name, 2000, dt_min=1e-3, dt_max=1e-1, **({"state_size": 400} if name == "s5" else {}))
    dt = torch.exp(layer.dt_log)
    assert dt.min() >= 0.999e-3
    assert dt.max() <= 1.001e-1
    assert abs(torch.log(dt).mean() - math.log(0.01)) < 0.3


def test_s4d_starts_with_its_modes():
    n = torch.arange(16)
    lin, inv, legs_layer = (recurra.layer("s4d", 2, state_size=32, init=init) for init in ("lin", "inv", "legs"))
    for layer in (lin, inv, legs_layer):
        assert_close("Re A", plane(layer).real, torch.full((2, 16), -0.5).double())
    assert_close("Im A", lin.A_imag, (math.pi * n).repeat(2, 1))
    assert_close("Im A", inv.A_imag, (32 / math.pi * (32 / (2 * n + 1) - 1)).repeat(2, 1))
    expected = torch.linalg.eigvals(legs_normal(32)).imag.sort().values[16:]
    assert_close("Im A", legs_layer.A_imag, expected.repeat(2, 1).float())


def test_s4d_legs_tends_to_hippo_legs():
    """The integral of exp(-s t) exp(t A) B over all t, (s I - A)^-1 B, comes to that of HiPPO-LegS as N grows."""
    off = []
    for n in (8, 32, 128):
        layer = recurra.layer("s4d", 1, state_size=n)
        A, b = plane(layer)[0].detach(), torch.view_as_complex(layer.B)[0].detach()
        full, right = legs(n)
        mine = 2 * (legs_modes(n)[1] @ (b / (0.1 - A))).real
        off.append(float((mine - torch.linalg.solve(0.1 * torch.eye(n) - full, right))[:4].abs().max()))
    assert off[0] < 1e-2
    assert off[0] > 4 * off[1] > 16 * off[2]


def test_dss_starts_with_the_modes_of_twice_the_size():
    layer = recurra.layer("dss", 3, state_size=8)
    expected = torch.linalg.eigvals(legs_normal(16)).imag.sort().values[8:]
    assert_close("Im A", layer.A_imag, expected.float())
    assert_close("Re A", plane(layer).real, torch.full((8,), -0.5).double())


def test_s5_starts_as_blocks_of_hippo():
    layer = recurra.layer("s5", 300, state_size=24, blocks=3)
    one = torch.linalg.eigvals(legs_normal(8)).imag.sort().values[4:].float()
    assert_close("Im A", layer.A_imag, one.repeat(3))
    assert_close("Re A", plane(layer).real, torch.full((12,), -0.5).double())
    # A unitary basis keeps lengths: half of P normal numbers of variance 1/D in each column of B, 1/P in rows of C.
    assert abs(float((layer.B.detach() ** 2).sum(0).mean()) - 12 / 300) < 0.01
    assert abs(float((layer.C.detach() ** 2).sum(1).mean()) - 0.5) < 0.05


# --- what they do -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("memory", "theta"), [(4, 8.0), (16, 784.0), (64, 100.0), (16, 10000.0)])
def test_lmu_is_stable_in_every_type(memory, theta):
    step, _ = legendre_window(memory, theta)
    layer = recurra.layer("lmu", 2, memory=memory, theta=theta)
    for dtype in (torch.float32, torch.bfloat16):
        kept = layer.change.to(dtype).double() + torch.eye(memory)
        assert torch.linalg.eigvals(kept).abs().max() < 1
    assert torch.linalg.eigvals(step).abs().max() < 1


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_aaren_survives_any_score(size):
    layer = recurra.layer("aaren", D, heads=2)
    with torch.no_grad():
        layer.query.mul_(size * 30)
    x = torch.randn(B, T, D, requires_grad=True)
    y, _ = layer(x)
    assert_close("y", y, aaren(layer, x))
    grads = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("s4d", {"init": "random"}, "init is 'random'"),
        ("s4d", {"discretisation": "euler"}, "discretisation is 'euler'"),
        ("s4d", {"state_size": 7}, "state_size is 7"),
        ("s4d", {"dt_min": 0.1, "dt_max": 0.01}, "dt_min, dt_max are 0.1, 0.01"),
        ("s5", {"state_size": 12, "blocks": 4}, "state_size is 12"),
        ("s4d", {"discretisation": ["zoh"]}, "discretisation is \\['zoh'\\]"),
        ("s4d", {"dt_min": "1"}, "dt_min is '1'"),
        ("dss", {"dt_max": None}, "dt_max is None"),
        ("lmu", {"theta": "1"}, "theta is '1'"),
        ("s5", {"blocks": True}, "blocks is True"),
        ("s5", {"blocks": 0}, "blocks is 0"),
        ("s5", {"dt_min": 0}, "dt_min, dt_max are 0, 0.1"),
        ("dss", {"state_size": 0}, "state_size is 0"),
        ("dss", {"dt_max": -1}, "dt_min, dt_max are 0.001, -1"),
        ("lmu", {"memory": 0}, "memory is 0"),
        ("lmu", {"theta": 0}, "theta is 0"),
        ("lmu", {"signals": 0}, "signals is 0"),
        ("aaren", {"heads": 3}, "heads is 3"),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(recurra.InputError, match=words):
        recurra.layer(name, D, **options)
