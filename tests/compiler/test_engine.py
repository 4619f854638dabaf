"""The compiled engine beyond the laws: what it refuses, its cache, threads, processes, memory."""

import os
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cells import Cell

import recurra
from recurra import Lane
from recurra.compiler.targets import cache, host
from recurra.engines import choose, compiled
from recurra.engines.kernels import launch
from recurra.testing.cases import draw, gradients
from recurra.testing.tolerances import assert_close

STUCK = 600
"""Seconds after which a process that should end is taken to wait for ever, however busy the machine is."""


class Branching(Cell):
    def step(self, h, x):
        if x.sum() > 0:
            return h + x, h
        return h - x, h


class Strange(Cell):
    def step(self, h, x):
        return torch.special.bessel_j0(h + x), h


class Precise(Cell):
    def step(self, h, x):
        h = (h.double() + x).to(x.dtype)
        return h, h


class Inner(Cell):
    """Learns at test time: a gradient inside the step."""

    lane = Lane.HEAD

    def start(self):
        return {"w": torch.zeros(2, self.width // 2, self.width // 2)}

    def inputs(self, x):
        k, v = x.unflatten(-1, (2, -1)), torch.sin(x).unflatten(-1, (2, -1))
        return {"k": k, "v": v}

    def step(self, w, k, v):
        def loss(w):
            return (torch.tanh(w @ k) - v).square().sum()

        w = w - 0.1 * torch.func.grad(loss)(w)
        return w, w @ k


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Branching, "decides by the value of a tensor"),
        (Strange, "bessel_j0"),
        (Precise, "computes in float64"),
    ],
)
def test_what_cannot_be_traced_is_named_with_its_line(kind, words):
    layer, x = kind(4), torch.randn(2, 3, 4)
    with pytest.raises(recurra.EngineRefused) as caught:
        layer(x, engine="compiled")
    message = str(caught.value)
    assert words in message
    line = kind.step.__code__.co_firstlineno + 1
    assert f"test_engine.py:{line}" in message
    if kind is Strange:
        with pytest.warns(UserWarning, match="replaying the step"):
            y, _ = layer(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again, _ = layer(x)
        assert torch.equal(y, again)


def test_a_gradient_inside_the_step_is_compiled():
    case = draw(lambda: Inner(8), torch.float64)
    expected, got = gradients(case, "loop"), gradients(case, "compiled")
    for name, value in expected.items():
        assert_close(name, got[name], value)


def test_settings_of_a_layer_may_change():
    layer, x = recurra.layer("rnn", 4), torch.randn(1, 5, 4)
    first, _ = layer(x)
    layer.nonlinearity = "relu"
    assert_close("relu", layer(x)[0], layer(x, engine="loop")[0])
    assert not torch.equal(first, layer(x)[0])


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_kernels", {})
    return tmp_path


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_a_damaged_cache_is_built_anew(fresh_cache, damage, monkeypatch):
    layer, x = recurra.layer("min-gru", 8), torch.randn(2, 3, 8)
    y, _ = layer(x)
    files = list(fresh_cache.glob("*.kernel"))
    assert files
    for file in files:
        good = file.read_bytes()
        bad = {
            "empty": b"",
            "cut": good[: len(good) // 2],
            "flipped": good[:-9] + b"x" + good[-8:],
            "foreign": b"x\n{}\ny",
        }
        file.write_bytes(bad[damage])
    monkeypatch.setattr(cache, "_kernels", {})
    assert torch.equal(layer(x)[0], y)
    assert all(file.read_bytes() == good for file in files[-1:])


def test_generated_source_lies_beside_the_code(fresh_cache):
    recurra.layer("mamba", 8)(torch.randn(1, 2, 8))
    sources = list(fresh_cache.glob("*.ll"))
    assert sources
    text = sources[0].read_text()
    assert "next.h <-" in text
    assert "define void @run" in text


def test_an_unwritable_cache_does_no_harm(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(cache, "_kernels", {})
    y, _ = recurra.layer("min-gru", 8)(torch.randn(1, 2, 8))
    assert y.isfinite().all()


def test_two_processes_compile_at_once(tmp_path):
    program = "import torch, recurra; print(recurra.layer('gru', 8)(torch.ones(1, 3, 8))[0].isfinite().all())"
    environment = os.environ | {"RECURRA_CACHE_DIR": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == [b"tensor(True)\n"] * 2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for name in ("mamba", "slstm"):
            case = draw(lambda name=name: recurra.layer(name, 16), torch.float64, batch=5, time=300)
            expected, got = gradients(replace(case, x=case.x[:, :9]), "loop"), gradients(case, "compiled")
            assert_close("y", got["y"][:, :9], expected["y"])
    finally:
        torch.set_num_threads(before)


def test_several_python_threads_at_once():
    layer = recurra.layer("lstm", 16)
    xs = [torch.randn(3, 200, 16) for _ in range(4)]
    expected, got = [layer(x)[0] for x in xs], [None] * 4

    def work(i):
        for _ in range(5):
            got[i] = layer(xs[i])[0]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(got, expected, strict=True):
        assert_close("y", a, b)


def test_a_forked_process_goes_on():
    program = (
        "import os, torch, recurra\n"
        "layer, x = recurra.layer('min-gru', 64), torch.randn(8, 500, 64)\n"
        "y = layer(x)[0].detach()\n"
        "if (pid := os.fork()) == 0:\n"
        "    from recurra.engines import compiled\n"
        "    torch.set_num_threads(1)\n"
        "    os._exit(0 if torch.allclose(layer(x)[0], y, atol=1e-6) else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=STUCK)


def test_a_data_loader_worker_may_run_a_layer():
    program = (
        "import torch, recurra\n"
        "layer = recurra.layer('min-gru', 8).requires_grad_(False)\n"
        "class Data(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i): return layer(torch.full((1, 5, 8), float(i)))[0]\n"
        "loader = torch.utils.data.DataLoader(Data(), num_workers=2)\n"
        "assert len([y for y in loader]) == 4\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=STUCK)


def test_explain_tells_what_was_made():
    facts = compiled.explain(recurra.layer("lstm", 8).problem(torch.randn(1, 2, 8)))
    assert "sigmoid" in facts["equations"]
    assert any("product [32, 8]" in line for line in facts["schedule"]["forward"])
    assert facts["bytes_read"] == 4 * 32
    assert facts["bytes_written"] == 4 * 8
    assert Path(facts["source"]["forward"]).read_text().count("define void @run") == 1


def test_auto_prefers_the_compiled_loop():
    with choose.observe() as seen:
        Cell(4)(torch.randn(1, 2, 4))
    assert seen == ["compiled"]


def test_states_are_stored_every_few_steps_only():
    layer, x = recurra.layer("min-gru", 64), torch.randn(1, 4096, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(x)
    # x for each of the two projections, the two inputs of the step, and one state in many.
    assert sum(kept) < 4.2 * 64 * 4096


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "width", "aligned"), [("min-gru", 32, True), ("mamba", 16, True), ("lru", 16, True), ("min-gru", 9, False)]
)
def test_large_results_written_past_the_caches_are_the_same(name, width, aligned, dtype, monkeypatch):
    case = draw(lambda: recurra.layer(name, width), dtype, 3, 37, state=True, resets=True, lengths=True)
    expected = gradients(case, "compiled")
    built = cache.built()
    monkeypatch.setattr(launch, "LARGE", 0)
    large = gradients(case, "compiled")
    assert (cache.built() > built) == aligned
    for key, value in expected.items():
        assert torch.equal(large[key], value), key


def test_float16_and_bfloat16_round_as_pytorch_does():
    class Pass(Cell):
        def step(self, h, x):
            return h, x * 1.0

    x = torch.tensor([1.0, 1 / 3, 65504.0, 1e-8, float("inf"), float("nan"), -2.5, 3.1e38])
    for dtype in (torch.bfloat16, torch.float16):
        values = x.to(dtype)[None, None]
        assert torch.equal(Pass(8)(values, engine="compiled")[0].isnan(), values.isnan())
        assert_close("y", Pass(8)(values)[0][0, 0].nan_to_num(), values[0, 0].nan_to_num(), torch.bfloat16)


class SharedAndProduct(Cell):
    """A tile of rows, an input that heads share, and rows that end early."""

    lane = Lane.HEAD

    def __init__(self, width):
        super().__init__(width)
        self.weight = torch.nn.Parameter(torch.randn(3, 4, 4) / 2)
        self.to_shared = torch.nn.Linear(width, 4)

    def start(self):
        return {"h": torch.zeros(3, 4)}

    def inputs(self, x):
        return {"u": recurra.shared(self.to_shared(x)), "w": recurra.constant(self.weight)}

    def step(self, h, u, w):
        h = torch.tanh(w @ h + u)
        return h, h


def test_shared_inputs_of_a_tile_with_padding():
    case = draw(lambda: SharedAndProduct(5), torch.float64, batch=7, time=6, lengths=True, state=True)
    expected, got = gradients(case, "loop"), gradients(case, "compiled")
    for name, value in expected.items():
        assert_close(name, got[name], value)


def test_an_empty_slice_leaves_no_trace():
    class Roll(Cell):
        lane = Lane.HEAD

        def start(self):
            return {"h": torch.zeros(self.width, 1)}

        def inputs(self, x):
            return {"x": x[..., None]}

        def step(self, h, x):
            h = torch.tanh(torch.cat([h[1:], h[:1]]) + x)
            return h, h

    case = draw(lambda: Roll(3), torch.float64)
    expected, got = gradients(case, "loop"), gradients(case, "compiled")
    assert_close("y", got["y"], expected["y"])
    assert_close("gradient of x", got["gradient of x"], expected["gradient of x"])


def test_a_gap_left_by_parts_is_zero():
    class Turn(Cell):
        """Its gradient puts 7 of 8 numbers into a buffer that is then read whole."""

        lane = Lane.LAYER

        def __init__(self, width):
            super().__init__(width)
            self.bias = torch.nn.Parameter(torch.randn(width))

        def inputs(self, x):
            return {"x": x, "b": recurra.constant(self.bias)}

        def step(self, h, x, b):
            b = b.flip(0)
            turned = torch.tanh(torch.cat([b[1:], b[:1]]))
            return 0.5 * (h + turned), turned * x

    case = draw(lambda: Turn(8), torch.float64)
    expected, got = gradients(case, "loop"), gradients(case, "compiled")
    assert_close("gradient of bias", got["gradient of parameter bias"], expected["gradient of parameter bias"])


def test_a_second_derivative_is_refused_by_name_and_the_loop_has_it():
    layer, x = Cell(4), torch.randn(1, 12, 4, requires_grad=True)
    for engine in ("auto", "loop"):
        (slope,) = torch.autograd.grad(layer(x, engine=engine)[0].square().sum(), x, create_graph=True)
        if engine == "loop":
            slope.square().sum().backward()
            assert x.grad.abs().sum() > 0
            continue
        with pytest.raises(recurra.RecurraError, match=r'differentiable once.*engine="loop"'):
            slope.square().sum().backward()


@pytest.mark.parametrize("name", ["gru", "mamba", "gated-delta-net", "s4d"])
def test_long_code_takes_few_passes_and_computes_the_same(name, monkeypatch, tmp_path):
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_kernels", {})
    monkeypatch.setattr(host, "LONG", 0)
    layer, x = recurra.layer(name, 13), torch.randn(3, 7, 13, requires_grad=True)
    results = {}
    for engine in ("compiled", "loop"):
        y, _ = layer(x, engine=engine)
        results[engine] = [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]
    assert list(tmp_path.glob("*.ll"))
    for got, expected in zip(results["compiled"], results["loop"], strict=True):
        assert_close("y and its gradients", got, expected)
