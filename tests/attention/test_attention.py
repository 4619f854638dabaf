"""What only layers with a growing state have: bounds, sizes of state, engines they refuse, states that do not fit."""

from functools import partial

import pytest
import torch

import recurra
from recurra.testing.laws import LAWS
from recurra.testing.tolerances import assert_close

GROWING = ["attention", "local-attention", "forgetting-attention", "rat", "latent-attention", "path-attention",
           "wall-attention", "delta-former", "parallax", "mega", "tcnca"]  # fmt: skip
VARIANTS = {
    "window": ("attention", {"key_heads": 2, "rotary": 0.5, "window": 3}),
    "window of one": ("attention", {"window": 1}),
    "a gate per head": ("attention", {"gated": "head", "qk_norm": "head", "window": 3}),
    "gated latents": ("latent-attention", {"gated": True}),
    "sinks and persistent pairs": ("attention", {"key_heads": 2, "window": 2, "sinks": 2, "persistent": 3}),
    "more sinks than time steps": ("local-attention", {"window": 1, "sinks": 9}),
    "shifts and norms": ("forgetting-attention", {"pro": True}),
    "keys that move and fade": ("path-attention", {"forget": True, "kernel": 1, "rank": 1}),
    "a probe behind a window": ("parallax", {"window": 3, "key_heads": 2}),
    "averages and chunks of three": ("mega", {"chunk": 3, "size": 1}),
    "averages and softmax": ("mega", {"softmax": True, "size": 3, "state_size": 1}),
    "convolutions and chunks": ("tcnca", {"chunk": 3, "kernel": 2, "depth": 2, "factor": 3}),
    "chunks of two": ("rat", {"chunk": 2}),
    "chunks of three": ("rat", {"chunk": 3, "key_heads": 1}),
}
"""Small enough for bounds and chunks to matter within the few time steps of a law."""


def laws():
    """What depends on options: not the objects that layers are, and over long sequences one engine is enough."""
    for engine in ("loop", "parallel"):
        for name, law in LAWS.items():
            held = law.applies(engine, torch.float64) and name not in ("is_a_module", "is_traceable")
            if held and (name, engine) != ("long_sequences", "loop"):
                yield name, engine


@pytest.mark.parametrize(("law", "engine"), list(laws()))
@pytest.mark.parametrize("variant", VARIANTS)
def test_laws(variant, law, engine):
    name, options = VARIANTS[variant]
    LAWS[law](partial(recurra.layer, name, 16, **options), engine, torch.float64)


@pytest.mark.parametrize("name", GROWING)
def test_engines(name):
    layer, x = recurra.layer(name, 8), torch.randn(1, 3, 8)
    with recurra.observe() as seen:
        layer(x)
    assert seen == ["parallel"]
    for engine in ("compiled", "scan", "convolution", "newton", "chunkwise"):
        with pytest.raises(recurra.EngineRefused, match=f"'{engine}' cannot run .* grows with time"):
            layer(x, engine=engine)
    with pytest.raises(recurra.InputError, match="engine is 'warp'"):
        layer(x, engine="warp")
    assert layer.explain(x)["engine"] == "parallel"
    for whole in (layer, recurra.layer(name, 8, num_layers=2)):
        with pytest.raises(recurra.InputError, match=r"has no structure: its state grows with time.*explain\(x\)"):
            _ = whole.structure


def test_how_much_is_kept():
    x = torch.randn(2, 40, 8)
    sizes = {"attention": ({}, 40), "forgetting-attention": ({}, 40), "rat": ({"chunk": 16}, 2)}
    for name, (options, expected) in sizes.items():
        assert recurra.layer(name, 8, **options)(x)[1]["keys"].shape[2] == expected
    layer, state = recurra.layer("local-attention", 8, window=7), None
    for t in range(40):
        _, state = layer.advance(x[:, t], state)
        assert state["keys"].shape[2] == min(t + 1, 6)
    assert state["keys"].untyped_storage().nbytes() == state["keys"].nbytes
    _, state = layer(x[:1])
    assert state["keys"].untyped_storage().nbytes() == state["keys"].nbytes


def test_rows_with_different_pasts_go_on_together():
    layer, x = recurra.layer("attention", 8), torch.randn(2, 9, 8)
    _, state = layer(x[:, :5], lengths=torch.tensor([5, 2]))
    together, _ = layer(x[:, 5:], state)
    alone, _ = layer(torch.cat([x[1:, :2], x[1:, 5:]], 1))
    assert_close("the shorter row", together[1], alone[0, 2:])
    trimmed = layer.trim(state.rows(1))
    assert trimmed["keys"].shape[2] == 2
    assert_close("from its trimmed state", layer(x[1:, 5:], trimmed)[0], together[1:])


def test_positions_count_from_the_start_of_a_sequence():
    layer, x = recurra.layer("attention", 16), torch.randn(1, 6, 16)
    resets = torch.zeros(1, 6, dtype=torch.bool)
    resets[0, 4] = True
    _, state = layer(x, resets=resets)
    assert state["position"].tolist() == [2]
    assert_close("keys", state["keys"], layer(x[:, 4:])[1]["keys"])


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_gradients_of_packed_neighbours_are_clean(name, poison):
    layer, x = recurra.layer(name, 8), torch.randn(1, 9, 8)
    resets = torch.zeros(1, 9, dtype=torch.bool)
    resets[0, [3, 6]] = True
    clean = x.clone().requires_grad_()
    layer(clean, resets=resets)[0].nan_to_num().sum().backward()
    x[0, 4] = poison
    dirty = x.requires_grad_()
    y, state = layer(dirty, resets=resets)
    torch.where(y.isfinite(), y, 0).sum().backward()
    for part in (slice(0, 3), slice(6, 9)):
        assert_close("gradient", dirty.grad[:, part], clean.grad[:, part])
    assert all(value.isfinite().all() for value in state.values())


BAD = {
    "a key of another size": (lambda s: s | {"keys": s["keys"][..., :1]}, r"state\['keys'\] is"),
    "fewer values than keys": (lambda s: s | {"values": s["values"][:, :, 1:]}, "as many of each"),
    "more time steps than entries": (lambda s: s | {"position": s["position"] + 1}, r"state\['position'\]\[0\] is 4"),
    "a negative position": (lambda s: s | {"position": -s["position"]}, r"state\['position'\]\[0\] is -3"),
    "no position": (lambda s: {n: v for n, v in s.items() if n != "position"}, "state holds"),
    "a flat key": (lambda s: s | {"keys": s["keys"][0]}, r"state\['keys'\] is"),
}


@pytest.mark.parametrize("case", BAD)
def test_states_that_do_not_fit(case):
    change, words = BAD[case]
    layer, x = recurra.layer("attention", 8), torch.randn(1, 3, 8)
    with pytest.raises(recurra.InputError, match=words):
        layer(x, change(layer(x)[1]))


def test_options():
    for options, words in (
        ({"heads": 3}, "heads is 3"), ({"key_heads": 3}, "key_heads is 3"), ({"rotary": 1.5}, "rotary is 1.5"),
        ({"window": 0}, "window is 0"), ({"base": 0}, "base is 0"), ({"persistent": -1}, "persistent is -1"),
        ({"sinks": 2}, "sinks is 2 and window is None"), ({"window": 2, "sinks": -1}, "sinks is -1"),
    ):  # fmt: skip
        with pytest.raises(recurra.InputError, match=words):
            recurra.layer("attention", 8, **options)
    for options, words in (({"rank": 0}, "rank is 0"), ({"kernel": 0}, "kernel is 0"), ({"forget": 1}, "forget is 1")):
        with pytest.raises(recurra.InputError, match=words):
            recurra.layer("path-attention", 8, **options)
    for options, words in (({"chunk": 0}, "chunk is 0"), ({"depth": 17}, "depth is 17"),
                           ({"depth": 9, "factor": 10}, "receptive field of .* is 444444445")):  # fmt: skip
        with pytest.raises(recurra.InputError, match=words):
            recurra.layer("tcnca", 8, **options)
    with pytest.raises(recurra.InputError, match="softmax is 2"):
        recurra.layer("mega", 8, softmax=2)
    with pytest.raises(recurra.InputError, match="gated is 1"):
        recurra.layer("wall-attention", 8, gated=1)
    with pytest.raises(recurra.InputError, match="chunk is 0"):
        recurra.layer("rat", 8, chunk=0)


def test_both_directions():
    both, x = recurra.layer("attention", 8, bidirectional=True), torch.randn(2, 5, 8)
    y, _ = both(x)
    backward = both.layers[0][1](x.flip(1))[0].flip(1)
    assert_close("backward half", y[..., 8:], backward)
