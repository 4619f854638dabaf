"""The loss curve of a run as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from recurra.files import write_atomically


def loss_curve(rows: Sequence[Mapping[str, float]], picture: Path) -> None:
    """Draw bits per byte over training, of rows with `step` and `bits_per_byte`, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    steps, bits = [row["step"] for row in rows], [row["bits_per_byte"] for row in rows]
    smooth, mean = [], None
    for value in bits:
        mean = value if mean is None else 0.8 * mean + 0.2 * value
        smooth.append(mean)
    figure, axes = plt.subplots(figsize=(7, 3.5), dpi=120)
    axes.plot(steps, bits, color="#9ecae1", linewidth=1, label="every logged step")
    axes.plot(steps, smooth, color="#08519c", linewidth=2, label="smoothed")
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte, training text")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    write_atomically(picture, buffer.getvalue())
