"""What "auto" picks and says."""

import json

import pytest
import torch

import recurra
from recurra.engines import calibrate, choose, rates
from recurra.engines.rates import Estimate, Rates


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path))
    rates.current.cache_clear()
    yield tmp_path
    rates.current.cache_clear()


def test_explain_names_structure_choice_and_costs():
    layer = recurra.layer("s4d", 8)
    said = layer.explain(torch.randn(1, 2000, 8))
    assert said["structure"] == "affine in the state, diagonal of 64, constant in time"
    assert set(said["expected"]) == set(choose.ENGINES)
    assert said["expected"][said["engine"]]["milliseconds"] == min(
        e["milliseconds"] for e in said["expected"].values() if "milliseconds" in e
    )
    assert "delta rule" in said["expected"]["chunkwise"]["refuses"]
    json.dumps(said)


@pytest.mark.parametrize("name", [n for n, kind in recurra.layers().items() if issubclass(kind, recurra.Recurrence)])
def test_one_time_step_is_enough_to_explain(name):
    layer, x = recurra.layer(name, 8), torch.randn(3, 700, 8)
    whole = layer.problem(x)
    assert layer.explain(x) == choose.explain(whole)
    assert layer.refusals(x) == choose.reasons_to_refuse(whole)


@pytest.mark.parametrize("name", ["gated-delta-net", "s4d", "lstm", "attention"])
def test_explain_needs_no_memory_for_the_input(name):
    layer, x = recurra.layer(name, 8), torch.zeros(1).expand(4, 2**31, 8)
    said = layer.explain(x)
    assert set(choose.ENGINES) <= set(said["expected"])
    assert len(str(said).splitlines()) == 1 + len(said["expected"])


@pytest.mark.usefixtures("own_cache")
def test_auto_cuts_one_long_narrow_sequence():
    torch.set_num_threads(2)
    layer = recurra.layer("min-gru", 8)
    with torch.no_grad(), recurra.observe() as seen:
        layer(torch.randn(1, 200000, 8))
        layer(torch.randn(16, 600, 8))
        layer(torch.randn(1, 100, 8))
    assert seen == ["scan", "compiled", "compiled"]


def test_rates_are_measured_kept_and_used(own_cache):
    assert rates.current() == Rates()
    found = calibrate.calibrate()
    assert all(value > 0 for value in vars(found).values())
    assert rates.current() == found
    rates.current.cache_clear()
    assert rates.current() == found
    (path,) = own_cache.glob("rates-*.json")
    path.write_text("{")
    rates.current.cache_clear()
    assert rates.current() == Rates()


def test_memory_is_checked_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(choose, "room", lambda device: 10**6)
    layer, x = recurra.layer("diagonal-gru", 32), torch.randn(1, 40000, 32)
    with pytest.raises(recurra.EngineRefused, match=r"engine 'newton' would need about \d.* GiB for B=1, T=40000"):
        layer(x, engine="newton")
    assert choose.choose(layer.problem(x)) == "compiled"


def test_auto_leaves_out_what_does_not_fit(monkeypatch):
    monkeypatch.setattr(choose.newton, "estimate", lambda problem: Estimate(0.0, 10**15))
    layer, x = recurra.layer("diagonal-gru", 4), torch.randn(1, 1000, 4)
    assert choose.choose(layer.problem(x)) == "compiled"


def test_an_unknown_engine_is_named():
    with pytest.raises(
        recurra.InputError, match="engine is 'fast'; expected 'auto' or one of 'compiled', 'loop', 'scan'"
    ):
        recurra.layer("lstm", 4)(torch.randn(1, 2, 4), engine="fast")


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("name", "shape", "worse"),
    [
        ("min-gru", (16, 4096, 64), "newton"),
        ("diagonal-gru", (4, 4096, 64), "newton"),
        ("diagonal-lstm", (4, 1024, 64), "loop"),
    ],
)
def test_auto_avoids_what_is_far_slower(name, shape, worse):
    problem = recurra.layer(name, shape[2]).problem(torch.randn(shape))
    expected = choose.estimates(problem)
    assert expected[choose.choose(problem)].seconds < expected[worse].seconds / 3
