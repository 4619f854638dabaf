"""Single time steps as one kernel: what the layer itself gives, whatever is done to the layer in between."""

import copy
import gc
import threading
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import recurra
from recurra.compiler.codegen import single as compiler
from recurra.compiler.targets import cache
from recurra.engines.kernels import threads
from recurra.engines.reading import Reading
from recurra.engines.stepping import single
from recurra.testing.tolerances import assert_close

IN_DOUBLE = {"s4d", "s5", "dss", "s4", "lssl", "h3", "conv-s5", "mixture-of-memories", "raven"}
"""Layers whose step sizes, or routes, are computed in float64 whatever their type: single steps in float32 are not."""
GROWING = {
    "attention",
    "latent-attention",
    "local-attention",
    "forgetting-attention",
    "path-attention",
    "wall-attention",
    "delta-former",
    "parallax",
    "mega",
    "tcnca",
    "rat",
}


def steps(layer, xs, state, engine="auto"):
    """Outputs of single time steps of one sequence, [T, D], or of several, [T, B, D]; and the state after them."""
    outputs = []
    with torch.no_grad():
        for x in xs:
            y, state = layer.advance(x[None] if x.dim() == 1 else x, state, engine=engine)
            outputs.append(y[0] if x.dim() == 1 else y)
    return torch.stack(outputs), state


def kernel_of(module):
    found = vars(module).get("_step_plan")
    return None if found is None or found.plan is None else found.plan.chain


def settled(name, dtype, rows):
    """A layer and inputs, drawn until rounding does not decide the result, with the reference's outputs and state.

    A norm over two numbers is next to a sign: a rounding more in bfloat16 may turn it, in the reference as well.
    """
    for _ in range(5):
        layer, xs = recurra.layer(name, 8).to(dtype), torch.randn(5, rows, 8, dtype=dtype)
        expected, last = steps(layer, xs, layer.initial_state(rows), "loop")
        precise = copy.deepcopy(layer).to(torch.float64)
        exact, _ = steps(precise, xs.to(torch.float64), precise.initial_state(rows), "loop")
        if (exact - expected).abs().max() < 16 * torch.finfo(dtype).eps * max(1, exact.abs().max()):
            break
    return layer, xs, expected, last


@pytest.mark.parametrize(
    ("dtype", "rows"), [(torch.float64, 1), (torch.float32, 1), (torch.bfloat16, 1), (torch.float32, 3)]
)
@pytest.mark.parametrize("name", [n for n in recurra.layers() if n not in GROWING])
def test_equals_the_layer(name, dtype, rows):
    layer, xs, expected, last = settled(name, dtype, rows)
    y, end = steps(layer, xs, layer.initial_state(rows))
    assert_close("y", y, expected)
    for key, value in last.items():
        assert_close(f"state {key}", end[key], value, dtype)
        assert end[key].dtype is value.dtype
    assert (kernel_of(layer) is None) == (name in IN_DOUBLE and dtype is not torch.float64)


def test_weights_and_settings_may_change():
    layer, xs = recurra.layer("mamba", 16), torch.randn(3, 16)
    start = layer.initial_state(1)

    def check():
        state = layer.initial_state(1)
        assert_close("y", steps(layer, xs, state)[0], steps(layer, xs, state, "loop")[0])
        assert kernel_of(layer) is not None

    check()
    with torch.no_grad():
        layer.to_output.weight.mul_(2)
    check()
    layer.D = torch.nn.Parameter(torch.randn(32))
    check()
    layer.load_state_dict(recurra.layer("mamba", 16).state_dict())
    check()
    layer.to(torch.float64)
    xs = xs.double()
    check()
    with pytest.raises(recurra.InputError, match="state"), torch.no_grad():
        layer.advance(xs[:1], start)


def change_a_bias(layer):
    layer.to_gate.bias = torch.nn.Parameter(torch.randn(8))


def change_a_part(layer):
    layer.to_gate = torch.nn.Linear(8, 8)


def change_strides(layer):
    layer.to_gate.weight.data = layer.to_gate.weight.data.t()


def change_the_step(layer):
    layer.step = lambda h, **inputs: (h + 1, h)


@pytest.mark.parametrize("change", [change_a_bias, change_a_part, change_strides, change_the_step])
def test_what_changes_is_seen(change):
    layer, xs = recurra.layer("min-gru", 8), torch.randn(3, 8)
    steps(layer, xs, layer.initial_state(1))
    before = kernel_of(layer)
    assert before is not None
    change(layer)
    start = layer.initial_state(1)
    assert_close("y", steps(layer, xs, start)[0], steps(layer, xs, start, "loop")[0])
    assert kernel_of(layer) is not before


@torch.no_grad()
def test_a_head_may_be_replaced():
    model = recurra.LanguageModel(40, 24, "gru", design={"tied": False}).eval()
    token, state = torch.tensor([3]), model.initial_state(1)
    model.advance(token, state)
    model.head = torch.nn.Linear(24, 40, bias=False)
    assert_close("logits", model.advance(token, state)[0], model(token[None], state, engine="loop")[0][0])


@torch.no_grad()
def test_a_default_device_is_not_taken():
    layer, x = recurra.layer("mamba", 160), torch.randn(1, 160)
    state = layer.initial_state(1)
    expected, _ = layer.advance(x, state)
    with torch.device("meta"):
        y, _ = layer.advance(x, state)
    assert torch.equal(y, expected)


@torch.no_grad()
def test_a_state_of_more_rows_is_refused():
    layer = recurra.layer("gru", 4)
    layer.advance(torch.randn(1, 4), layer.initial_state(1))
    with pytest.raises(recurra.InputError, match="2 sequences"):
        layer.advance(torch.randn(1, 4), layer.initial_state(2))


@torch.no_grad()
def test_models_streamed_once_are_forgotten():
    model = recurra.LanguageModel(40, 24, "gru").eval()
    model.advance(torch.tensor([3]), model.initial_state(1))
    gone = [weakref.ref(thing) for thing in (model, *model.parameters())]
    del model
    gc.collect()
    assert [thing() for thing in gone] == [None] * len(gone)


@torch.no_grad()
def test_threads_may_stream_a_model_for_the_first_time():
    def stream(model, tokens, into):
        with torch.no_grad():
            state = model.initial_state(1)
            for token in tokens:
                logits, state = model.advance(token[None], state)
            into.append(logits)

    tokens, got = torch.randint(0, 40, (8,)), []
    first, second = (recurra.LanguageModel(40, 44, "min-gru").eval() for _ in range(2))
    workers = [threading.Thread(target=stream, args=(first, tokens, got)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    stream(second, tokens, got)
    assert len(got) == 5
    for logits, model in zip(got, [first] * 4 + [second], strict=True):
        assert_close("logits", logits, model(tokens[None], engine="loop")[0][:, -1])


class Scaled(recurra.Recurrence):
    lane = recurra.Lane.CHANNEL
    scale = 1.0

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = torch.tanh(h + self.scale * x)
        return h, h


class Noisy(Scaled):
    def inputs(self, x):
        return {"x": x + torch.rand(x.shape)}


def test_what_is_random_is_drawn_every_time():
    layer, x = Noisy(4), torch.ones(2, 4)
    (first, second), _ = steps(layer, x, layer.initial_state(1))
    assert kernel_of(layer) is None
    assert not torch.equal(first, torch.tanh(x[0] * 1.0))
    again, _ = steps(layer, x, layer.initial_state(1))
    assert not torch.equal(first, again[0])
    assert not torch.equal(second, first)


class Masked(recurra.Recurrence):
    """Makes constants of flags and of whole numbers, too large to be spelt out in code."""

    lane = recurra.Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.weight = torch.nn.Parameter(torch.randn(width, width))

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": torch.nn.functional.linear(x, torch.diag(self.weight[0]))}

    def step(self, h, x):
        rows = torch.arange(self.width)
        weight = self.weight * torch.ones(self.width, self.width, dtype=torch.bool).tril()
        h = torch.tanh(weight @ h + x)
        return h, (h[:, None] * (rows[:, None] * rows)).sum(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_constants_of_any_type_are_read_as_numbers(dtype):
    layer, xs = Masked(12).to(dtype), torch.randn(4, 1, 12, dtype=dtype)
    start = layer.initial_state(1)
    assert_close("y", steps(layer, xs, start)[0], steps(layer, xs, start, "loop")[0])
    assert kernel_of(layer) is not None


def test_hooks_are_called():
    layer, x, seen = recurra.layer("min-gru", 4), torch.randn(1, 4), []
    steps(layer, x, layer.initial_state(1))
    handle = layer.to_gate.register_forward_hook(lambda *_: seen.append(1))
    steps(layer, x, layer.initial_state(1))
    assert seen
    handle.remove()
    steps(layer, x, layer.initial_state(1))
    assert kernel_of(layer) is not None
    assert len(seen) == 1


def test_gradients_go_the_usual_way():
    layer, x = recurra.layer("gru", 8), torch.randn(1, 8, requires_grad=True)
    y, _ = layer.advance(x, layer.initial_state(1))
    assert torch.autograd.grad(y.sum(), x)[0].abs().sum() > 0


@pytest.mark.parametrize("name", ["mamba", "gated-delta-net", "ttt-mlp", "slstm"])
def test_any_number_of_threads_gives_the_same_bits(name):
    layer, xs = recurra.layer(name, 160), torch.randn(4, 160)
    start, before, seen = layer.initial_state(1), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            y, state = steps(layer, xs, start)
            seen.append([y, *state.values()])
    finally:
        torch.set_num_threads(before)
    assert kernel_of(layer).kernels[0].dealt
    for others in seen[1:]:
        assert all(map(torch.equal, others, seen[0]))


@pytest.mark.parametrize("openmp", [True, False])
def test_no_thread_waits_for_one_that_does_nothing(openmp, monkeypatch):
    layer, xs = recurra.layer("mamba", 160), torch.randn(3, 160)
    expected, _ = steps(layer, xs, layer.initial_state(1))
    if openmp:
        run = threads.run
        monkeypatch.setattr(threads, "run", lambda task, _: run(replace(task, items=1), 1))
    else:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    monkeypatch.setattr(threads, "count", lambda: 3)
    assert torch.equal(steps(layer, xs, layer.initial_state(1))[0], expected)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_a_thread_that_waits_calls_only_what_its_platform_has(platform, monkeypatch, tmp_path):
    layer, xs = recurra.layer("mamba", 160), torch.randn(3, 160)
    expected, _ = steps(layer, xs, layer.initial_state(1))
    # Written anew, as there.
    monkeypatch.setattr(compiler, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(single, "_recipes", {})
    monkeypatch.setattr(cache, "_kernels", {})
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path))
    fresh = copy.deepcopy(layer)
    assert torch.equal(steps(fresh, xs, fresh.initial_state(1))[0], expected)
    (kernel,) = kernel_of(fresh).kernels
    assert kernel.dealt
    ir = kernel.source.read_text()
    assert ("sched_yield" in ir) == (platform != "win32")


def test_several_python_threads_at_once():
    layer, xs = recurra.layer("mamba", 160), torch.randn(30, 160)
    expected, _ = steps(layer, xs, layer.initial_state(1))
    results = []

    def work():
        results.append(steps(layer, xs, layer.initial_state(1))[0])

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(torch.equal(y, expected) for y in results)


@pytest.mark.parametrize("pattern", ["mamba+gru", "gated-delta-net+attention", "s4d+rwkv7"])
def test_a_model_streams_what_it_gives_whole(pattern):
    model = recurra.LanguageModel(40, 24, pattern).eval()
    tokens = torch.randint(0, 40, (1, 12))
    with torch.no_grad():
        whole, _ = model(tokens)
        state, logits = model.initial_state(1), []
        for t in range(12):
            y, state = model.advance(tokens[:, t], state)
            logits.append(y)
    assert_close("logits", torch.stack(logits, 1), whole)


def test_dropout_counts_while_training():
    model = recurra.LanguageModel(40, 24, "gru", dropout=0.5)
    token, state = torch.tensor([3]), model.initial_state(1)
    with torch.no_grad():
        drawn = [model.advance(token, state)[0] for _ in range(2)]
        model.eval()
        calm = [model.advance(token, state)[0] for _ in range(2)]
    assert not torch.equal(*drawn)
    assert torch.equal(*calm)


def test_nan_comes_out_as_nan():
    layer, x = recurra.layer("gru", 8), torch.randn(2, 8)
    x[0, 3] = float("nan")
    y, _ = steps(layer, x, layer.initial_state(1))
    assert y.isnan().all()


def test_a_reading_notices_parts_replaced_and_weights_cut_short():
    block = recurra.LanguageModel(40, 24, "gru").blocks[0]
    reading, old = Reading(block, whole=True), weakref.ref(block.recurrence)
    block.recurrence = recurra.layer("gru", 24)
    gc.collect()
    assert old() is not None, "something new could get its identity"
    assert not reading.holds()
    reading, weight = Reading(block, whole=True), block.mlp_out.weight
    assert reading.holds()
    weight.data = weight.data[:20]
    assert not reading.holds()
