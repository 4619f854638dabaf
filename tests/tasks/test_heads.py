"""Heads are distributions: they sum to one, quantiles and draws are theirs, slopes are right, what is missing counts
nothing; a conditional random field is what enumeration says."""

from itertools import chain, pairwise, product

import pytest
import torch

from recurra.errors import InputError
from recurra.tasks.heads import student_t
from recurra.tasks.heads.binary import Binary
from recurra.tasks.heads.categorical import Categorical
from recurra.tasks.heads.crf import CRF, Forward
from recurra.tasks.heads.ctc import CTC
from recurra.tasks.heads.fourier import Fourier
from recurra.tasks.heads.head import Around
from recurra.tasks.heads.margin import LDAM, Hinge
from recurra.tasks.heads.mixture_density import MixtureDensity
from recurra.tasks.heads.negative_binomial import NegativeBinomial
from recurra.tasks.heads.normal import Normal
from recurra.tasks.heads.quantile import Quantile
from recurra.tasks.heads.queried import Queried
from recurra.tasks.heads.student_t import StudentT
from recurra.testing.laws import check_recurrence
from recurra.testing.tolerances import assert_close

REAL, COUNTS = {"normal": Normal, "student-t": StudentT, "fourier": Fourier}, NegativeBinomial
NAN = float("nan")


def drawn(head, *shape):
    return torch.randn(*shape, head.size, dtype=torch.float64)


def scattered(*shape):
    """Units of some targets."""
    mean, deviation = 20 * torch.randn(2, *shape, dtype=torch.float64)
    return Around(mean, deviation.abs() + 0.1)


@pytest.mark.parametrize("name", REAL)
def test_densities_integrate_to_one_and_to_their_quantiles(name):
    head = REAL[name]()
    raw, around, levels = drawn(head, 3), scattered(3), [0.001, 0.3, 0.5, 0.97]
    z = ((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 - 0.5)[:, None] * torch.pi
    y, slope = around.back(z.tan()), around.deviation / z.cos() ** 2  # the whole line, as an angle
    density = torch.exp(-head.surprise(raw, y, around)) * slope * torch.pi / 200_000
    assert_close("mass", density.sum(0), torch.ones(3).double(), slack=1e-5)
    for n, level in enumerate(levels):
        below = (density * (y <= head.quantile(raw, levels, around)[..., n])).sum(0)
        assert_close(f"below the quantile of {level}", below, torch.full((3,), level).double(), slack=2e-4)
    assert_close("median", head.predict(raw, around), head.quantile(raw, [0.5], around)[..., 0])


def test_quantiles_of_students_t_are_those_that_are_known_by_formula():
    """With 2 and 4 degrees of freedom, and with so many that it is a normal distribution."""
    p = torch.cat([torch.tensor([1e-4, 0.025, 0.5, 0.9999]), 0.01 + 0.98 * torch.rand(9)]).double()
    a = 2 * p - 1
    root = (4 * p * (1 - p)).sqrt()
    four = 2 * a.sign() * ((root.arccos() / 3).cos() / root - 1).clamp(min=0).sqrt()
    found = student_t.quantiles(torch.tensor([2.0, 4.0, 1e30]), p)
    expected = torch.stack([a / (2 * p * (1 - p)).sqrt(), four, torch.special.ndtri(p)])
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-12)


def test_counts_sum_to_one_and_to_their_quantiles():
    head, around = COUNTS(), Around(torch.tensor(3.0).double(), torch.tensor(2.0).double())
    raw, counts = drawn(head, 4), torch.arange(20_000).double()[:, None]
    chances = torch.exp(-head.surprise(raw, counts, around))
    assert_close("mass", chances.sum(0), torch.ones(4).double())
    assert_close("mean", (counts * chances).sum(0), head.predict(raw, around))
    for level in (0.05, 0.5, 0.99):
        quantile = head.quantile(raw, [level], around)[:, 0]
        assert ((chances * (counts <= quantile)).sum(0) >= level - 1e-12).all()
        assert ((chances * (counts < quantile)).sum(0) < level).all()
    with pytest.raises(InputError, match="student-t"):
        head.quantile(raw, [0.5], Around(torch.tensor(1e9).double()))


def test_a_mixture_integrates_to_one_with_its_pen():
    head = MixtureDensity(3)
    raw = drawn(head, 1).clamp(-1, 1)  # so that no bell is narrower than the grid
    line = torch.linspace(-12, 12, 801, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 1, 2)
    mass = sum(
        torch.exp(-head.surprise(raw, torch.cat([grid, torch.full_like(grid[..., :1], pen)], -1))).sum()
        for pen in (0.0, 1.0)
    )
    assert_close("mass", mass * (line[1] - line[0]) ** 2, torch.ones(()).double(), slack=1e-3)
    draws = head.sample(raw, 20_000)
    assert_close("mean", draws[:, 0, :2].mean(0), head.predict(raw)[0, :2], slack=0.15)


def heads():
    return [*(make() for make in REAL.values()), COUNTS(), Quantile([0.1, 0.4, 0.6, 0.95])]


@pytest.mark.parametrize("head", heads(), ids=lambda head: type(head).__name__)
def test_draws_have_the_quantiles(head):
    raw, around = drawn(head, 2), Around(torch.tensor([5.0, -3.0]).double(), torch.tensor([2.0, 0.5]).double())
    draws = head.sample(raw, 20_000, around)
    assert draws.shape == (20_000, 2)
    levels = [0.2, 0.5, 0.9]
    quantiles = head.quantile(raw, levels, around)
    assert (quantiles.diff(dim=-1) >= 0).all()
    below, at = (draws[..., None] < quantiles).double().mean(0), (draws[..., None] <= quantiles).double().mean(0)
    for n, level in enumerate(levels):
        assert (below[:, n] <= level + 0.02).all()
        assert (at[:, n] >= level - 0.02).all()


def test_pinball_loss_is_least_at_the_quantiles():
    head, y = Quantile([0.2, 0.7]), torch.randn(4001, dtype=torch.float64)
    best = torch.quantile(y, torch.tensor([0.2, 0.7]).double())
    least = head.loss(best.expand(4001, 2), y)
    for step in (torch.tensor([0.1, 0.0]), torch.tensor([0.0, -0.1])):
        assert head.loss((best + step).expand(4001, 2), y) > least
    assert (head.quantile(torch.tensor([[3.0, 1.0]]), [0.2, 0.7]) == torch.tensor([[1.0, 3.0]])).all()
    with pytest.raises(InputError, match=r"trained on 0\.2 to 0\.7"):
        head.quantile(best[None], [0.1])


def test_classes_and_labels():
    head, raw = Categorical(5, smoothing=0.1, weights=[1, 2, 3, 4, 0.5]), torch.randn(7, 5)
    target = torch.randint(5, (7,))
    chances = torch.stack([torch.exp(-head.surprise(raw, torch.full((7,), k))) for k in range(5)], -1)
    assert_close("sum", chances.sum(-1), torch.ones(7))
    assert_close("probabilities", head.probabilities(raw), chances)
    smooth = 0.9 * torch.nn.functional.one_hot(target, 5) + 0.1 / 5
    each, own = -(smooth * raw.log_softmax(-1)).sum(-1), head.weights[target]
    assert_close("loss", head.loss(raw, target), (each * own).sum() / own.sum())
    with pytest.raises(InputError, match="no quantiles"):
        head.quantile(raw, [0.5])
    yes, raw = Binary(), torch.randn(3, 4, 1)
    both = torch.exp(-yes.surprise(raw, torch.ones(3, 4))) + torch.exp(-yes.surprise(raw, torch.zeros(3, 4)))
    assert_close("sum", both, torch.ones(3, 4))
    draws = yes.sample(raw, 5000).mean(0)
    assert_close("draws", draws, yes.probabilities(raw), slack=0.05)


ALL = [*heads(), Binary(), MixtureDensity(2), Categorical(4), Hinge(4), LDAM([3, 1, 9, 2])]


@pytest.mark.parametrize("head", [*ALL, CRF(4), CTC(4), Queried(2)], ids=lambda head: type(head).__name__)
def test_what_is_fed_back_can_be_read(head):
    """A draw is embedded in so many numbers, a missing one without a trace of its value, and no two values alike."""
    raw = drawn(head, 2, 5)
    value = torch.randint(4, (2, 5)) if isinstance(head, CRF) else head.sample(raw)[0]
    missing = torch.full_like(value, -1 if head.kind == "category" else NAN)
    around = Around() if head.kind == "category" else Around(torch.tensor(7.0), torch.tensor(2.0))
    assert head.embed(value, around).shape[-1] == head.embedded
    told, nothing = head.embed(value, around), head.embed(missing, around)
    assert told.isfinite().all()
    assert (nothing == nothing.flatten(0, -2)[0]).all()
    there = head.there(value)
    assert (told != nothing).any(-1)[there].all()
    if head.kind == "category":
        assert (told.argmax(-1) == value)[there].all()


def test_margins_are_kept():
    raw, target = torch.randn(50, 3, dtype=torch.float64), torch.randint(3, (50,))
    true, others = raw.gather(1, target[:, None])[:, 0], raw.scatter(1, target[:, None], -torch.inf).amax(1)
    assert_close("hinge", Hinge(3).loss(raw, target), (1 + others - true).clamp(min=0).mean())
    counts = torch.tensor([16.0, 1.0, 81.0]).double()
    lower = raw - 0.5 / counts**0.25 * torch.nn.functional.one_hot(target, 3)
    assert_close(
        "LDAM",
        LDAM([16, 1, 81]).loss(raw, target),
        torch.nn.functional.cross_entropy(lower, target),
        dtype=torch.float32,
    )
    with pytest.raises(InputError, match="counts holds 0"):
        LDAM([3, 0])


def test_a_bias_makes_points_neater():
    head, generator = MixtureDensity(3), torch.Generator().manual_seed(1)
    raw = drawn(head, 1)
    assert_close("none", head.biased(raw, 0.0), raw)
    spreads = [
        head.sample(head.biased(raw, bias), 4000, generator=generator)[..., :2].var(0).sum() for bias in (0, 1, 4)
    ]
    assert spreads[0] > spreads[1] > spreads[2]


@pytest.mark.parametrize("head", ALL, ids=lambda head: type(head).__name__)
def test_slopes_and_what_is_missing(head):
    raw = drawn(head, 2, 3).requires_grad_()
    shape = (2, 3, 3) if isinstance(head, MixtureDensity) else (2, 3)
    target = torch.randint(4, shape) if head.kind == "category" else torch.randint(2, shape).double()
    missing = target.clone()
    missing[0, 1] = -1 if head.kind == "category" else NAN
    weight = torch.ones(2, 3).double()
    weight[0, 1] = 0
    around = Around() if head.kind == "category" else Around(torch.tensor(0.3).double(), torch.tensor(2.0).double())
    assert torch.autograd.gradcheck(lambda r: head.loss(r, missing, None, around), (raw,))
    assert_close("masked", head.loss(raw, missing, None, around), head.loss(raw, target, weight, around))
    nothing = torch.full_like(target, -1 if head.kind == "category" else NAN)
    loss = head.loss(raw, nothing, None, around)
    (slope,) = torch.autograd.grad(loss, raw)
    assert loss == 0
    assert not slope.any()


def by_enumeration(head, raw):
    """The probability of every way of tagging raw [T, K]."""
    found = {}
    for tags in product(range(head.size), repeat=len(raw)):
        score = head.first[tags[0]] + head.last[tags[-1]] + sum(raw[t, k] for t, k in enumerate(tags))
        found[tags] = score + sum(head.between[a, b] for a, b in pairwise(tags))
    total = torch.stack(list(found.values())).logsumexp(0)
    return {tags: score - total for tags, score in found.items()}


def random_field(classes):
    head = CRF(classes).double()
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    return head


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_conditional_random_field_is_what_enumeration_says(length):
    head = random_field(3)
    raw = torch.randn(1, length, 3, dtype=torch.float64)
    chances = by_enumeration(head, raw[0])
    for tags, log_chance in chances.items():
        found = head.surprise(raw, torch.tensor([tags]))
        assert_close("chance", -found.sum(), log_chance)
        assert_close("loss", head.loss(raw, torch.tensor([tags])), -log_chance / length)
    assert tuple(head.predict(raw)[0].tolist()) == max(chances, key=chances.get)


def test_a_field_packed_and_padded_and_apart():
    head, lengths = random_field(4), [3, 1, 5]
    raws = [torch.randn(1, n, 4, dtype=torch.float64) for n in lengths]
    tags = [torch.randint(4, (1, n)) for n in lengths]
    apart = torch.stack([head.surprise(r, t).sum() for r, t in zip(raws, tags, strict=True)])
    best = [head.predict(r)[0].tolist() for r in raws]
    resets = torch.zeros(1, 9, dtype=torch.bool)
    resets[0, [0, 3, 4]] = True
    packed = Around(resets=resets)
    raw, target = torch.cat(raws, 1), torch.cat(tags, 1)
    assert_close("packed", head.surprise(raw, target, packed)[0, [2, 3, 8]], apart)
    assert head.predict(raw, packed)[0].tolist() == list(chain(*best))
    padded = [torch.nn.utils.rnn.pad_sequence([t[0] for t in ts], batch_first=True) for ts in (raws, tags)]
    around = Around(lengths=torch.tensor(lengths))
    assert_close("padded", head.surprise(*padded, around).sum(1), apart)
    assert [row[:n].tolist() for row, n in zip(head.predict(padded[0], around), lengths, strict=True)] == best
    lost = target.clone()
    lost[0, 5] = -1
    assert_close("of whole sequences", head.loss(raw, lost, None, packed), apart[:2].sum() / 4)
    weight = torch.ones(1, 9).double()
    weight[0, 4] = 0
    assert_close("weighted", head.loss(raw, target, weight, packed), apart[:2].sum() / 4)


def test_the_slopes_of_a_field():
    head, target = random_field(3), torch.randint(3, (2, 4))
    raw = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    around = Around(lengths=torch.tensor([4, 2]))
    names, weights = zip(*head.named_parameters(), strict=True)

    def loss(raw, *weights):
        return torch.func.functional_call(head, dict(zip(names, weights, strict=True)), (raw, target, None, around))

    assert torch.autograd.gradcheck(loss, (raw, *weights))


@pytest.mark.parametrize("best", [False, True])
def test_the_algorithms_are_recurrences(best):
    def make():
        return Forward(torch.nn.Parameter(torch.randn(3, 3)), torch.nn.Parameter(torch.randn(3)), best)

    check_recurrence(make, ["compiled"], [torch.float64])


def test_bad_options():
    for make, message in [
        (lambda: Categorical(0), "classes is 0"),
        (lambda: Categorical(2, weights=[1]), "one for each of 2 classes"),
        (lambda: Quantile([0.5, 0.2]), "rising"),
        (lambda: Quantile([]), "rising"),
        (lambda: Normal().quantile(torch.zeros(2), [1.5]), "levels is 1.5"),
        (lambda: Normal().quantile(torch.zeros(2), [0.0]), "both left out"),
    ]:
        with pytest.raises(InputError, match=message):
            make()
