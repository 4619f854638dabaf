"""The chunkwise engine where the short sequences of the laws do not reach: many chunks, strong decays, a peer."""

import warnings
from dataclasses import replace

import pytest
import torch

import recurra
from recurra import Lane, Recurrence
from recurra.engines import loop
from recurra.engines.choose import reasons_to_refuse
from recurra.engines.chunkwise import chunks
from recurra.engines.chunkwise import engine as chunkwise
from recurra.problem import DeltaRule, StepInput
from recurra.state import State
from recurra.testing.cases import Case, compare, gradients
from recurra.testing.tolerances import assert_close

LAYERS = {
    "delta-net": {"negative_eigenvalues": True},
    "delta-product": {"householders": 3},
    "gated-delta-net": {"key_size": 3, "value_size": 5},
    "gla": {},
    "hgrn2": {"lower_bound": 0.1},
    "linear-attention": {},
    "mamba2": {"state_size": 6},
    "mamba3": {"state_size": 6},
    "mlstm": {"heads": 2},
    "retnet": {"heads": 2},
    "rwkv7": {"heads": 2},
    "xlstm-7b": {"heads": 2},
}
C = chunks.CHUNK


class Kimi(Recurrence):
    """S_t = S_{t-1} diag(a_t) (I - beta_t k_t k_t^T) + beta_t v_t k_t^T with a decay per key, all of it given."""

    lane = Lane.HEAD

    def start(self):
        return {"S": torch.zeros(2, 3, 4)}

    def inputs(self, x):
        q, k, v, log_decay, beta = x.unflatten(-1, (2, -1)).split([4, 4, 3, 4, 1], -1)
        k = torch.nn.functional.normalize(k, dim=-1)
        return {"q": q, "k": k, "v": v, "log_decay": -log_decay.exp(), "beta": torch.sigmoid(beta[..., 0])}

    def step(self, S, q, k, v, log_decay, beta):
        S = S * torch.exp(log_decay)
        S = S + beta * torch.outer(v - S @ k, k)
        return S, S @ q

    def as_delta_rule(self, S, q, k, v, log_decay, beta):
        return DeltaRule(q, k, v, S, beta, log_decay)


class Wide(Recurrence):
    """All that a rule may say of itself: several writes, keys to erase, a read before the write, keys that turn."""

    lane = Lane.HEAD

    def __init__(self, writes=1, erase=False, take=False, beta=True, before=False, turning=False, per_key=False):
        super().__init__(2 * (4 + writes * (4 + 3 + 4 + 4 + 1) + 4 + 2))
        self.writes, self.erase, self.take, self.beta, self.before = writes, erase, take, beta, before
        self.turning, self.per_key = turning, per_key

    def start(self):
        return {"S": torch.zeros(2, 3, 4)}

    def inputs(self, x):
        sizes = [4, *[self.writes * n for n in (4, 3, 4, 4, 1)], 4, 2]
        q, k, v, erase, take, beta, log_decay, angle = x.unflatten(-1, (2, -1)).split(sizes, -1)
        k, v, erase, take = (t.unflatten(-1, (self.writes, -1)) for t in (k, v, erase, take))
        k, erase, take = (torch.nn.functional.normalize(t, dim=-1) for t in (k, erase, take))
        log_decay = -log_decay.exp() if self.per_key else -log_decay[..., 0].exp()
        return {"q": q, "k": k, "v": v, "erase": erase, "take": take, "beta": torch.sigmoid(beta),
                "log_decay": log_decay, "angle": angle}  # fmt: skip

    def step(self, S, q, k, v, erase, take, beta, log_decay, angle):
        before = S @ q
        if self.turning:
            a, b = S.chunk(2, 1)
            S = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], 1)
        S = S * torch.exp(log_decay)
        for j in range(self.writes):
            rate = beta[j] if self.beta else 1.0
            taken = erase[j] if self.erase else rate * k[j] if self.beta else 0 * k[j]
            S = S - torch.outer(S @ taken, take[j] if self.take else k[j]) + torch.outer(rate * v[j], k[j])
        return S, before + (q * k[0]).sum() * v[0] if self.before else S @ q

    def as_delta_rule(self, S, q, k, v, erase, take, beta, log_decay, angle):
        if self.writes == 1:
            k, v, erase, take, beta = (t[:, :, :, 0] for t in (k, v, erase, take, beta))
        return DeltaRule(
            q, k, v, S, beta if self.beta else None, log_decay, angle if self.turning else None,
            erase=erase if self.erase else None, take=take if self.take else None, before=self.before,
            result=(lambda o, S: (S, o + (q * k).sum(-1, keepdim=True) * v)) if self.before else None,
        )  # fmt: skip


WIDE = {
    "several writes": {"writes": 2},
    "several that only add": {"writes": 3, "beta": False},
    "another key to erase": {"erase": True, "beta": False},
    "another key and a rate, decays per key": {"erase": True, "per_key": True},
    "several keys to erase, decays per key": {"writes": 3, "erase": True, "per_key": True},
    "taken out under a key of its own": {"erase": True, "take": True, "per_key": True},
    "the same by a rate, several writes": {"take": True, "writes": 2},
    "read before": {"before": True, "beta": False, "per_key": True},
    "read before a correction": {"before": True, "erase": True},
    "turning": {"erase": True, "turning": True, "beta": False},
    "turning, several writes": {"writes": 2, "erase": True, "take": True, "turning": True},
    "turning, read before": {"turning": True, "before": True},
}


def layer(name):
    if name == "kimi":
        return Kimi(32).double()
    if name in WIDE:
        return Wide(**WIDE[name]).double()
    return recurra.layer(name, 8, **LAYERS[name]).double()


def case(name, time=150, batch=2, resets=None, lengths=None):
    made = layer(name)
    x = torch.randn(batch, time, made.width, dtype=torch.float64)
    with torch.no_grad():
        carried = made(torch.randn(batch, 3, made.width, dtype=torch.float64), engine="loop")[1]
    flags = None
    if resets is not None:
        flags = torch.zeros(batch, time, dtype=torch.bool)
        for row, steps in enumerate(resets):
            flags[row, steps] = True
    return Case(made, x, carried, flags, None if lengths is None else torch.tensor(lengths))


@pytest.mark.parametrize("name", [*LAYERS, "kimi"])
@pytest.mark.parametrize("options", [
    {},
    {"time": 2 * C},
    {"resets": [[0, C - 1, C, C + 7, 3 * C], [2 * C + 1, 2 * C + 2, 2 * C + 20, 149]]},
    {"lengths": [97, 0], "resets": [[40, 96, 97, 120], [1]]},
    {"lengths": [C, 150]},
], ids=["plain", "whole chunks", "resets", "lengths and resets", "lengths"])  # fmt: skip
def test_many_chunks_are_the_loop(name, options):
    compare(case(name, **options), "chunkwise")


@pytest.mark.parametrize("name", ["gated-delta-net", "gla", "mlstm", "retnet", "rwkv7"])
def test_many_chunks_are_the_loop_in_float32(name):
    """Where kernels of our own may run."""
    made = case(name, resets=[[C - 1, C, C + 7, 3 * C], [64, 149]], lengths=[150, 97])
    compare(made.to(torch.float32), "chunkwise")


@pytest.mark.parametrize("name", WIDE)
def test_all_that_a_rule_may_say(name):
    compare(case(name, time=75, resets=[[0, 30, 31], [64]], lengths=[75, 70]), "chunkwise")
    made = case(name, time=9, resets=[[5], []])
    made.x[0, 2] = made.x[1, 4] = float("nan")
    (expected, state), (got, after) = made.run("loop"), made.run("chunkwise")
    assert (expected.isnan().any(-1) == got.isnan().any(-1)).all()
    assert (state["S"].isnan().flatten(2).any(-1) == after["S"].isnan().flatten(2).any(-1)).all()


@pytest.mark.parametrize("name", ["mlstm", "xlstm-7b"])
@pytest.mark.parametrize("strength", [30.0, 1000.0])
def test_exponential_gates_of_any_strength(name, strength):
    """They lie far beyond what an exponential holds; the running maximum keeps both engines within it."""
    made = case(name, time=100, resets=[[50], [3, 64]], lengths=[100, 90])
    problem = made.layer.problem(made.x)
    inputs = {n: StepInput(entry.tensor.detach()) for n, entry in problem.inputs.items()}
    inputs |= {n: StepInput(strength * torch.randn_like(inputs[n].tensor)) for n in ("i", "f")}
    problem = replace(problem, inputs=inputs, resets=made.resets, lengths=made.lengths)
    expected, got = loop.run(problem), chunkwise.run(problem)
    assert_close("y", got.y, expected.y)
    for state in expected.state:
        assert_close(state, got.state[state], expected.state[state])


@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_any_size_of_chunk(monkeypatch, size):
    monkeypatch.setattr(chunks, "CHUNK", size)
    for name in ("gated-delta-net", "gla"):
        compare(case(name, time=70, resets=[[64], [5, 6]]), "chunkwise")


def by_hand(name, batch=2, time=100, heads=2, size=4, dtype=torch.float64, **changed):
    """The problem of the Gated DeltaNet's (or "kimi"'s) step for inputs drawn here, and these as leaves."""
    made = Kimi(32) if name == "kimi" else recurra.layer(name, 8, heads=heads, key_size=size, value_size=3)
    problem = made.to(dtype).problem(torch.zeros(batch, time, made.width, dtype=dtype))
    q, k, v = (torch.randn(batch, time, heads, n, dtype=dtype) for n in (size, size, 3))
    shape = (batch, time, heads, size) if name == "kimi" else (batch, time, heads)
    inputs = {
        "q": q,
        "k": torch.nn.functional.normalize(k, dim=-1),
        "v": v,
        "log_decay": -torch.rand(shape, dtype=dtype),
        "beta": torch.rand(batch, time, heads, dtype=dtype),
    }
    inputs = {name: t.requires_grad_() for name, t in (inputs | changed).items()}
    return replace(problem, inputs={name: StepInput(t) for name, t in inputs.items()}), inputs


def held_to_the_loop(problem, leaves):
    results = []
    for engine in (loop, chunkwise):
        rollout = engine.run(problem)
        loss = rollout.y.sin().sum() + rollout.state["S"].cos().sum()
        results.append([rollout.y, rollout.state["S"], *torch.autograd.grad(loss, list(leaves.values()))])
    for what, expected, got in zip(["y", "S", *leaves], *results, strict=True):
        assert got.isfinite().all(), what
        assert_close(what, got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["gated-delta-net", "kimi"])
@pytest.mark.parametrize("strength", [50.0, 800.0, torch.inf])
def test_strong_decays_neither_overflow_nor_blur_weak_ones(name, strength, dtype):
    _, inputs = by_hand(name, dtype=dtype)
    log_decay = 0.01 * inputs["log_decay"].detach()
    log_decay[torch.rand_like(log_decay) < 0.3] = -strength
    held_to_the_loop(*by_hand(name, dtype=dtype, log_decay=log_decay))


@pytest.mark.parametrize("name", ["gated-delta-net", "kimi"])
def test_keys_that_repeat_lose_no_digits(name):
    """All keys alike and full corrections: where powers of L would grow without bound."""
    k = torch.ones(2, 100, 2, 4) / 2
    held_to_the_loop(*by_hand(name, dtype=torch.float32, k=k, beta=torch.ones(2, 100, 2)))


@pytest.mark.parametrize("name", [*LAYERS, "kimi"])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_poison_stays_between_its_step_and_the_next_reset(name, poison):
    one = case(name, resets=[[C + 3, 2 * C + 20], []])
    clean, clean_end = one.run("chunkwise")
    x = one.x.clone()
    x[0, C + 9] = poison
    y, end = replace(one, x=x).run("chunkwise")
    assert_close("the other sequence", y[1], clean[1])
    assert_close("before", y[0, : C + 9], clean[0, : C + 9])
    assert_close("after the reset", y[0, 2 * C + 20 :], clean[0, 2 * C + 20 :])
    for name, value in end.items():
        assert_close(f"state {name}", value, clean_end[name])
    if poison != poison:
        assert y[0, C + 9].isnan().any()


def test_a_state_that_is_not_finite_spoils_its_sequence_until_a_reset():
    one = case("gated-delta-net", resets=[[C + 3], []])
    clean, _ = one.run("chunkwise")
    S = one.state["S"].clone()
    S[0] = torch.nan
    y, end = replace(one, state=State(one.state | {"S": S})).run("chunkwise")
    assert y[0, : C + 3].isnan().all()
    assert_close("after the reset", y[0, C + 3 :], clean[0, C + 3 :])
    assert_close("the other sequence", y[1], clean[1])
    assert end["S"].isfinite().all()


def test_gradients_do_not_pass_a_reset():
    problem, leaves = by_hand("gated-delta-net", batch=1)
    resets = torch.zeros(1, 100, dtype=torch.bool)
    resets[0, [40, 70]] = True
    y = chunkwise.run(replace(problem, resets=resets)).y
    for name, grad in zip(leaves, torch.autograd.grad(y[:, 40:70].sum(), list(leaves.values())), strict=True):
        assert_close(name, grad[:, :40], torch.zeros_like(grad[:, :40]))
        assert_close(name, grad[:, 70:], torch.zeros_like(grad[:, 70:]))
        assert grad[:, 40:70].abs().max() > 1e-3


def test_angles_are_exact_late_in_a_sequence():
    made = recurra.layer("retnet", 8, heads=2)
    x = torch.randn(1, 20_000, 8)
    with torch.no_grad():
        got = made(x, engine="chunkwise")
        expected = made.double()(x.double()[:, -600:], engine="loop")  # 32 / 31 to the 600 is 2e8
    assert_close("y", got[0][:, -100:], expected[0][:, -100:].float())
    assert_close("S", got[1]["S"], expected[1]["S"].to(torch.complex64))


def test_saturated_gates_have_finite_gradients():
    made = recurra.layer("hgrn2", 8)
    x = torch.full((1, 40, 8), 1e4, requires_grad=True)
    for sign in (1, -1):
        y, _ = made(sign * x, engine="chunkwise")
        assert_close("y", y, made(sign * x, engine="loop")[0])
        assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()


def test_refusals_say_why():
    reason = reasons_to_refuse(recurra.layer("lstm", 8).problem(torch.zeros(1, 2, 8)))["chunkwise"]
    assert "not known to be a" in reason
    assert "as_delta_rule" in reason
    problem, _ = by_hand("kimi")
    assert chunkwise.refuses(problem) is None
    resets = torch.zeros(2, 100, dtype=torch.bool)
    problem = replace(problem, start={"S": torch.ones(2, 3, 4)})
    assert chunkwise.refuses(problem) is None
    assert "not zero" in chunkwise.refuses(replace(problem, resets=resets))
    with pytest.raises(recurra.EngineRefused, match=r"chunkwise.*delta rule"):
        recurra.layer("gru", 8)(torch.zeros(1, 2, 8), engine="chunkwise")
    made = recurra.layer("gla", 8)
    with pytest.raises(recurra.EngineRefused, match=r"torch\.func"):
        torch.func.vmap(lambda x: made(x, engine="chunkwise")[0])(torch.zeros(2, 1, 3, 8))


def test_double_backward_is_refused():
    problem, leaves = by_hand("gated-delta-net", time=5)
    grad = torch.autograd.grad(chunkwise.run(problem).y.square().sum(), leaves["v"], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(("time", "dtype"), [(150, torch.float32), (64, torch.float32), (1, torch.float32)])
def test_gated_delta_rule_is_that_of_transformers(time, dtype, qwen3_next):
    problem, leaves = by_hand("gated-delta-net", time=time, heads=4, size=8, dtype=dtype)
    S = torch.randn(2, 4, 3, 8)
    rollout = chunkwise.run(replace(problem, state={"S": S}))
    args = [leaves[name] for name in ("q", "k", "v", "log_decay", "beta")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y, state = qwen3_next.torch_chunk_gated_delta_rule(*args, initial_state=S.mT, output_final_state=True)
    assert_close("y", rollout.y * 8**-0.5, y)
    assert_close("S", rollout.state["S"], state.mT)
    weight = torch.randn_like(y)
    ours = torch.autograd.grad((rollout.y * 8**-0.5 * weight).sum(), list(leaves.values()))
    theirs = torch.autograd.grad((y * weight).sum(), list(leaves.values()))
    for name, a, b in zip(leaves, ours, theirs, strict=True):
        assert_close(f"gradient of {name}", a, b)


def test_half_types_are_computed_in_float32():
    made = recurra.layer("gated-delta-net", 8).to(torch.bfloat16)
    x = torch.randn(2, 100, 8, dtype=torch.bfloat16)
    problem = made.problem(x)
    got, expected = (engine.run(problem).state["S"] for engine in (chunkwise, loop))
    assert got.dtype is torch.float32
    assert_close("S", got, expected)
    one = Case(made, x)
    got, expected = gradients(one, "chunkwise"), gradients(one, "loop")
    for name, value in expected.items():
        assert_close(name, got[name], value, torch.bfloat16)
