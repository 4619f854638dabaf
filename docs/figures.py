"""Make the pictures of the documents from the runs and benchmarks that lie in the project folder."""

import io
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from recurra.files import write_atomically
from recurra.training.plot import loss_curve

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs/images"
COLOURS = {
    "compiled": "#08519c",
    "scan": "#3182bd",
    "convolution": "#31a354",
    "newton": "#e6550d",
    "chunkwise": "#756bb1",
    "loop": "#969696",
}


def main() -> None:
    """Draw every picture whose data is there."""
    metrics = ROOT / "runs/default/metrics.jsonl"
    if metrics.exists():
        loss_curve(metrics, IMAGES / "loss.png")
    curves = json.loads((ROOT / "benchmarks/curves.json").read_text())
    engines(curves["engines"])
    newton(curves["newton"])


def engines(curves: dict[str, Any]) -> None:
    """Milliseconds over time steps, one panel per kind of step."""
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.5), dpi=120, sharex=True)
    for axes, curve in zip(panels.flat, curves.values(), strict=True):
        for engine, points in curve["milliseconds"].items():
            steps, times = zip(*points, strict=True)
            axes.plot(steps, times, marker="o", markersize=3, color=COLOURS[engine], label=engine)
        axes.set(xscale="log", yscale="log", title=curve["title"])
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    for axes in panels[1]:
        axes.set_xlabel("time steps")
    for axes in panels[:, 0]:
        axes.set_ylabel("milliseconds, forward")
    _save(figure, "engines.png")


def newton(records: dict[str, Any]) -> None:
    """Iterations, and time steps left to the loop, over training on parity."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), dpi=120, sharex=True)
    for (name, record), colour in zip(records.items(), ("#08519c", "#e6550d"), strict=True):
        steps = [entry["step"] for entry in record]
        above.plot(steps, [entry["iterations"] for entry in record], marker="o", color=colour, label=name)
        below.plot(steps, [entry["finished_by_loop"] / 4096 for entry in record], marker="o", color=colour, label=name)
    above.set_ylabel("iterations")
    above.set_ylim(bottom=0)
    above.legend()
    below.set(xlabel="training step", ylabel="part left to the loop", ylim=(-0.02, 1.02))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    _save(figure, "newton.png")


def _save(figure: Any, name: str) -> None:
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    write_atomically(IMAGES / name, buffer.getvalue())
    print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
