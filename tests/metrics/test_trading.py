"""What positions earn, against sums by hand, and portfolios against all others that there are."""

import pytest
import torch

from recurra.errors import InputError
from recurra.metrics.trading import (
    by_rule,
    eigen_portfolios,
    maximum_sharpe,
    minimum_risk,
    returns,
    trade,
)


def market(days=300, assets=4, seed=0):
    dice = torch.Generator().manual_seed(seed)
    mixed = torch.randn(assets, assets, generator=dice, dtype=torch.float64)
    noise = torch.randn(days, assets, generator=dice, dtype=torch.float64)
    return 0.01 * (noise @ mixed + 0.1 * torch.randn(assets, generator=dice, dtype=torch.float64))


def others(assets):
    """Many shares that sum to one, the corners among them."""
    drawn = torch.distributions.Dirichlet(torch.full((assets,), 0.4, dtype=torch.float64)).sample((4000,))
    return torch.cat([torch.eye(assets, dtype=torch.float64), drawn])


@pytest.mark.parametrize("assets", [1, 2, 5])
def test_no_other_shares_have_less_risk_or_a_higher_sharpe_ratio(assets):
    for seed in range(4):
        earned, shares = market(assets=assets, seed=seed), others(assets).T
        least = minimum_risk(earned)
        assert abs(float(least.sum()) - 1) < 1e-9
        assert float(least.min()) >= 0
        assert float((earned @ least).std()) <= float((earned @ shares).std(0).min()) * (1 + 1e-9)
        expected = 0.01 * torch.randn(assets).double()
        best = maximum_sharpe(earned, expected)
        if expected.max() <= 0:
            assert not best.any()  # nothing is to be earned: nothing is held
            continue
        ratio = expected @ best / (earned @ best).std()
        assert float(ratio) >= float((expected @ shares / (earned @ shares).std(0)).max()) * (1 - 1e-9)


def test_eigen_portfolios_do_not_move_together():
    earned = market()
    held = eigen_portfolios(earned)
    moved = torch.corrcoef((earned @ held.T).T)
    torch.testing.assert_close(moved, torch.eye(4, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(held.abs().sum(1), torch.ones(4, dtype=torch.float64))
    spread = earned.std(0)
    explained = ((earned @ held.T).var(0)) / (held * spread).square().sum(1)
    assert (explained.diff() <= 1e-12).all()


def test_what_positions_earn_is_what_a_purse_would_hold():
    earned = torch.tensor([[0.1, -0.2], [-0.5, 0.3], [0.0, 0.1]])
    positions = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, -1.0]])
    purse = 1.1 - 0.02
    purse *= 1 - 0.25 + 0.15 - 0.02
    purse *= 1 - 0.1 - 0.02 * 2
    found = trade(earned, positions, cost=0.02, per_year=3, groups={"first": [0], "second": [1]})
    assert found["strategy"]["total"] == pytest.approx(purse - 1, abs=1e-6)
    assert found["strategy"]["annual"] == pytest.approx(purse - 1, abs=1e-6)
    assert found["strategy"]["fall"] == pytest.approx(1 - 0.88 * 0.86, abs=1e-6)
    assert found["turnover"] == pytest.approx(4 / 3)
    assert found["hold"]["total"] == pytest.approx(0.95 * 0.9 * 1.05 - 1, abs=1e-6)
    assert list(found["groups"]) == ["second", "first"]
    assert "Sharpe" in str(found)


def test_rules():
    expected = torch.tensor([0.02, 0.005, 0.0, -0.03])
    assert by_rule(expected, 0.01).tolist() == [1, 0, 0, 0]
    assert by_rule(expected, 0.01, short=True).tolist() == [1, 0, 0, -1]
    torch.testing.assert_close(returns(torch.tensor([2.0, 3.0, 1.5])), torch.tensor([0.5, -0.5]))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: returns(torch.tensor([1.0, 0.0])), "prices holds"),
        (lambda: trade(torch.zeros(3, 2), torch.zeros(3)), r"positions is \[3\]; expected .*\[3, 2\]"),
        (lambda: trade(torch.zeros(0), torch.zeros(0)), "no time step"),
        (lambda: trade(torch.tensor([torch.nan]), torch.zeros(1)), "a number is missing"),
        (lambda: trade(torch.zeros(2), torch.zeros(2), cost=-1), "cost is -1"),
        (lambda: minimum_risk(torch.zeros(1, 2)), r"earned is \[1, 2\]"),
        (lambda: maximum_sharpe(market(), torch.zeros(3)), r"expected is \[3\]"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(InputError, match=said):
        call()
