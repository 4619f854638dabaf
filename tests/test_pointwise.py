"""Norms and activations: PyTorch's functions, with gradients of every order and in every mode."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from recurra import pointwise
from recurra.pointwise import Dropout, RMSNormFromOne, relu_squared, rms_norm

SHAPES = [(1, 1), (0, 5), (3, 0, 4), (2, 3, 7), (1, 65, 33), (128,)]


def both(x, weight, eps, slopes, **options):
    """Value and gradients of ours and of PyTorch's."""
    given = [t for t in (x, weight) if t is not None and t.requires_grad]
    for y in (rms_norm(x, weight, eps), functional.rms_norm(x, x.shape[-1:], weight, eps)):
        yield [y, *torch.autograd.grad(y, given, slopes, **options)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", ["weight", "frozen", "none", "only"])
def test_equals_pytorchs(shape, dtype, weighted):
    x = torch.randn(shape, dtype=dtype).requires_grad_(weighted != "only")
    weight = None if weighted == "none" else torch.randn(shape[-1], dtype=dtype).requires_grad_(weighted != "frozen")
    for ours, theirs in zip(*both(x, weight, 1e-3, torch.randn(shape, dtype=dtype)), strict=True):
        torch.testing.assert_close(ours, theirs, **({"rtol": 1e-9, "atol": 1e-11} if dtype is torch.float64 else {}))


def test_permuted():
    x = torch.randn(3, 4, 5, dtype=torch.float64).permute(2, 0, 1).requires_grad_()
    weight, slopes = torch.randn(4, dtype=torch.float64, requires_grad=True), torch.randn(4, 3, 5).permute(2, 1, 0)
    for ours, theirs in zip(*both(x, weight, 1e-6, slopes.double()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_transposed_and_large_and_small_values():
    x = (torch.randn(40, 6, dtype=torch.float64) * 10 ** torch.linspace(-8, 8, 40)[:, None]).t().requires_grad_()
    weight = torch.randn(40, dtype=torch.float64, requires_grad=True)
    for ours, theirs in zip(*both(x, weight, 1e-6, torch.randn(40, 6, dtype=torch.float64).t()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_nan_stays_in_its_row():
    x = torch.randn(4, 8)
    x[1, 3] = torch.nan
    x.requires_grad_()
    y = rms_norm(x, torch.ones(8), 1e-6)
    (slope,) = torch.autograd.grad(y.sum(), x)
    for t in (y, slope):
        assert t.isnan().any(-1).tolist() == [False, True, False, False]


def test_gradients_of_gradients():
    x, weight = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 5), (5,)))
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x: rms_norm(x, None, 1e-3), (x,))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_transforms_of_functions():
    x, weight = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64, requires_grad=True)
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        ours, theirs = (transform(f)(x) for f in (
            lambda x: rms_norm(x, weight, 1e-3).square().sum(),
            lambda x: functional.rms_norm(x, (5,), weight, 1e-3).square().sum(),
        ))  # fmt: skip
        torch.testing.assert_close(ours, theirs)


def test_its_own_derivative_is_used_where_only_backpropagation_is_asked_for(monkeypatch):
    used, plain = [], pointwise._RMSNorm.apply
    monkeypatch.setattr(pointwise._RMSNorm, "apply", lambda *args: used.append(1) or plain(*args))
    x = torch.randn(3, 5, requires_grad=True)
    rms_norm(x, None, 1e-6)
    assert used == [1]
    with torch.no_grad():
        rms_norm(x, None, 1e-6)
    rms_norm(x.detach(), torch.ones(5), 1e-6)
    assert used == [1]


def test_the_weight_around_one():
    norm, x = RMSNormFromOne(6, 1e-6), torch.randn(2, 6)
    with torch.no_grad():
        norm.weight.normal_()
    torch.testing.assert_close(norm(x), functional.rms_norm(x, (6,), 1 + norm.weight, 1e-6))


def test_hooks_are_called_once_for_gradients_of_gradients():
    x, weight = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 5), (5,)))
    x.register_hook(lambda grad: 2 * grad)
    weight.register_hook(lambda grad: 3 * grad)
    for create_graph in (False, True):
        for ours, theirs in zip(*both(x, weight, 1e-3, torch.ones(3, 5), create_graph=create_graph), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_norm_weighted_by_itself():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, x, 1e-3), (x,))
    assert torch.autograd.gradgradcheck(lambda x: rms_norm(x, x, 1e-3), (x,))


def test_gradients_over_many_rows_and_inside_autocast():
    x = torch.randn(1 << 17, 8, requires_grad=True)
    weight, slopes = torch.randn(8, requires_grad=True), torch.sign(x.detach())
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = torch.autograd.grad(functional.rms_norm(exact[0], (8,), exact[1], 1e-6), exact, slopes.double())
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = torch.autograd.grad(rms_norm(x, weight, 1e-6), (x, weight), slopes)
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 3), (1,), (5, 7), (3, 64, 33)])
def test_squared_relu(dtype, shape):
    x = torch.randn(shape, dtype=dtype)
    x[..., :1] = 0
    x.requires_grad_()
    slopes = torch.randn(shape, dtype=dtype)

    def derivatives(y):
        (first,) = torch.autograd.grad(y, x, slopes, create_graph=True)
        return [y, first, *torch.autograd.grad(first, x, slopes)]

    torch.testing.assert_close(derivatives(relu_squared(x)), derivatives(torch.relu(x).square()))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_squared_relu_of_nan_and_infinities_and_under_transforms():
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 2.0], requires_grad=True)
    y = relu_squared(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    for ours, theirs in ((y, [torch.nan, torch.inf, 0, 0, 4]), (slope, [torch.nan, torch.inf, 0, 0, 4])):
        torch.testing.assert_close(ours.detach(), torch.tensor(theirs), equal_nan=True)
    plain = torch.func.hessian(lambda x: relu_squared(x).sum())(torch.tensor([-1.0, 3.0]))
    torch.testing.assert_close(plain, torch.tensor([[0.0, 0.0], [0.0, 2.0]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.003, 0.2, 0.5, 0.98])
def test_dropout_drops_its_share_at_every_place_and_keeps_the_mean(dtype, p):
    x = torch.ones(80_000, 5, dtype=dtype, requires_grad=True)
    y = Dropout(p)(x)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(y, slope)  # of ones: the factor itself
    kept = y != 0
    torch.testing.assert_close(
        y[kept], torch.full_like(y[kept], 1 / (1 - p)), rtol=max(1e-3, torch.finfo(dtype).eps), atol=0
    )
    for size in (4, 5):  # the four draws of one random word, and the columns
        found = kept.flatten().view(-1, size).double()
        spread = 5 * (p * (1 - p) / len(found)) ** 0.5
        assert (found.mean(0) - (1 - p)).abs().max() < spread
        neighbours = (found[:, :-1] * found[:, 1:]).mean(0)
        assert (neighbours - (1 - p) ** 2).abs().max() < 2 * spread


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0, 2), (7,), (2, 3, 5)])
@pytest.mark.parametrize("p", [0.0, 1e-6, 0.4, 1 - 1e-6, 1.0])
def test_dropout_of_any_size_and_probability(shape, p):
    x = torch.randn(shape, dtype=torch.float64).transpose(0, -1).requires_grad_()
    for drop in (Dropout(p), Dropout(p, inplace=True)):
        y = drop(x * 1.0)
        assert y.shape == x.shape
        torch.testing.assert_close(y[y != 0] * (1 - p), x[y != 0], rtol=1e-4, atol=0)
        assert p not in (0.0, 1.0) or int((y != 0).sum()) == (x.numel() if p == 0 else 0)
    assert torch.equal(Dropout(p).eval()(x), x)


def test_dropout_repeats_after_a_seed_and_hides_no_nan():
    x = torch.full((1001,), torch.nan, requires_grad=True)
    assert Dropout(0.5)(x).isnan().all()
    x, drawn = torch.randn(1001, requires_grad=True), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(Dropout(0.5)(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_dropout_draws_few_words():
    x, drawn = torch.randn(4, 1001, requires_grad=True), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "random" in str(function) or "bernoulli" in str(function):
                drawn.append(args[0].numel())
            return function(*args, **(kwargs or {}))

    with Watch():
        Dropout(0.3)(x)
    assert drawn == [1001]
