"""Draw the pictures of docs/gallery.md, one for each family: how large the state of its layers is, and how long what
they were given once is still in their output."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

import recurra
from recurra.catalogue import FAMILIES
from recurra.cli.layers import without_memory
from recurra.errors import InputError
from recurra.files import write_atomically

IMAGES = Path(__file__).parent / "images"
WIDTHS = (32, 64, 128, 256, 512)
WIDTH, TIME = 32, 1024
"""Of the layers that are struck, and for how long they are listened to."""
SHOWN = sorted({round(TIME ** (i / 40)) for i in range(41)})
"""The time steps that are drawn, even on a logarithmic axis."""
FAINTEST = 1e-6
"""Of the loudest. What is fainter than rounding is not drawn."""


def held(kind: type[recurra.Layer], width: int) -> float | None:
    """Numbers of state per channel after a sequence of `TIME` steps; None of a width that the layer cannot have."""
    try:
        layer = without_memory(kind, width)
    except InputError:
        return None
    if layer.growing:
        with torch.no_grad():
            state = kind(width)(torch.zeros(1, TIME, width))[1]
    else:
        with torch.device("meta"):
            state = layer.initial_state(1)
    return sum(value.numel() * (2 if value.is_complex() else 1) for value in state.values()) / width


def echo(kind: type[recurra.Layer]) -> list[float]:
    """How far an impulse at the first time step of noise moves each output, in proportion to the farthest; NaN where
    faint. In silence nothing would ask a memory for what it holds."""
    torch.manual_seed(0)
    layer = kind(WIDTH).double().eval()
    quiet = torch.randn(1, TIME, WIDTH, dtype=torch.float64)
    struck = quiet.clone()
    struck[:, 0] += torch.randn(WIDTH, dtype=torch.float64)
    with torch.no_grad():
        moved = (layer(struck)[0] - layer(quiet)[0]).norm(dim=-1)[0]
    loud = moved / moved.max()
    return [float(loud[t - 1]) if loud[t - 1] > FAINTEST else float("nan") for t in SHOWN]


def draw(family: str) -> None:
    """Both panels of a family, and the names of its layers beside them."""
    figure, (state, impulse) = plt.subplots(1, 2, figsize=(10, 4))
    names = FAMILIES[family].layers
    for i, name in enumerate(names):
        kind = recurra.layers()[name]
        look = {"color": plt.cm.tab20(i % 20), "linestyle": ("-", "--", ":")[i // 20], "linewidth": 1.2}
        sizes = [(width, size) for width in WIDTHS if (size := held(kind, width)) is not None]
        state.plot(*zip(*sizes, strict=True), label=name, marker=".", **look)
        impulse.plot(SHOWN, echo(kind), **look)
    _label(state, "channels", "numbers of state per channel", 2)
    _label(impulse, "time steps after an impulse", "its echo in the output", 10)
    impulse.set_ylim(FAINTEST, 2)
    figure.legend(loc="outside center right", fontsize=6, ncols=1 + len(names) // 22)
    figure.subplots_adjust(0.07, 0.13, 0.83 if len(names) < 22 else 0.7, 0.97, 0.25)
    made = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": family}):
        figure.savefig(made, format="svg", metadata={"Date": None})
    plt.close(figure)
    write_atomically(IMAGES / f"family-{family}.svg", made.getvalue())


def _label(axes: Axes, along: str, up: str, base: int) -> None:
    axes.set_xscale("log", base=base)
    axes.set_yscale("log")
    if base == 2:
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel=along, ylabel=up)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    for family in FAMILIES:
        draw(family)
        print(f"docs/images/family-{family}.svg", flush=True)
