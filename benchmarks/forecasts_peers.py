"""Forecasts by neuralforecast: `benchmarks.forecasts` runs this file in the environment that has that library, which
need not have this one: `python forecasts_peers.py FOLDER` reads task.json and data.csv there and writes answer.json."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

QUIET = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
PROBE = (5, 25)
"""Updates of the two fits whose difference shows the pace."""


def made(task: dict[str, Any], steps: int) -> Any:
    """A model of a task around its library's own options, to train for so many updates."""
    from neuralforecast import NeuralForecast, models

    own = {"h": task["horizon"], "futr_exog_list": task["future"], "hist_exog_list": task["past"]}
    own |= {"input_size": task["reads"], "scaler_type": task["scaler"]}
    model = getattr(models, task["model"])(**own, max_steps=steps, random_seed=task["seed"], accelerator="cpu", **QUIET)
    return NeuralForecast([model], task["frequency"])


def paced(task: dict[str, Any], data: Any) -> int:
    """As many updates as the processor does in the seconds of a task."""
    times = []
    for steps in PROBE:
        began = time.process_time()
        made(task, steps).fit(data)
        times.append(time.process_time() - began)
    return max(1, int(task["seconds"] * (PROBE[1] - PROBE[0]) / (times[1] - times[0])))


def walked(task: dict[str, Any], data: Any) -> dict[str, Any]:
    """Train for so many seconds on what lies before the windows, and forecast each of them."""
    steps = paced(task, data)
    model, began = made(task, steps), time.process_time()
    windows = {"n_windows": task["windows"], "step_size": task["stride"]}
    found = model.cross_validation(data, **windows, refit=False)
    return {
        "forecast": found[task["model"]].tolist(),
        "seconds": time.process_time() - began,
        "steps": steps,
        "parameters": sum(p.numel() for p in model.models[0].parameters()),
    }


def timed(task: dict[str, Any], data: Any) -> dict[str, Any]:
    """How long a model that is trained takes for the forecasts of all windows, the best of three."""
    model = made(task, 5)
    model.fit(data)
    times = []
    for _ in range(3):
        began = time.process_time()
        model.cross_validation(data, n_windows=task["windows"], step_size=task["stride"], refit=False, use_fitted=True)
        times.append(time.process_time() - began)
    return {"seconds": min(times), "parameters": sum(p.numel() for p in model.models[0].parameters())}


def main(folder: Path) -> None:
    """Read a task and answer it."""
    import pandas
    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    task = json.loads((folder / "task.json").read_text())
    data = pandas.read_csv(folder / "data.csv", parse_dates=["ds"])
    answer = (walked if task["seconds"] else timed)(task, data)
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
