"""The same forecasts by neuralforecast, in an environment of its own, on one thread as ours."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra.data.sequences import Field, Sequences
from recurra.data.sets import Split
from recurra.metrics.series import mase
from recurra.tasks.calendar import YEAR, Calendar
from recurra.tasks.walk import origins

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-neuralforecast/bin/python"


def here() -> bool:
    """Whether there is such an environment."""
    return PYTHON.exists()


def beside(name: str, test: Sequences, split: Split, seconds: float, scaler: str) -> dict[str, Any]:
    """A model of neuralforecast by name, trained for as long on what lies before the windows of one series: its mean
    absolute scaled error on them. What is missing is for it the value before; it is told the same of the calendar."""
    columns, future = _columns(test)
    past = [each for each in columns if each not in ("ds", "y", *future)]
    horizon, windows = split.horizon, split.windows
    task = {"model": name, "horizon": horizon, "windows": windows, "stride": horizon, "seconds": seconds, "seed": 0}
    found = asked(task | {"future": future, "past": past, "reads": -1, "scaler": scaler}, columns, test)
    rows = origins(test, horizon, windows, horizon).reshape(-1)
    said = torch.tensor(found.pop("forecast"), dtype=torch.float64).reshape(windows, horizon)
    return found | {"mase": scored(test, rows, said, split.season)}


def walked(test: Sequences, horizon: int, windows: int, reads: int) -> float:
    """Seconds that a trained LSTM of neuralforecast takes for the forecasts from so many origins side by side, each
    made from so many steps."""
    columns = {name: column for name, column in _columns(test)[0].items() if name in ("ds", "y")}
    task = {"model": "LSTM", "horizon": horizon, "windows": windows, "stride": 1, "seconds": 0, "seed": 0}
    return float(asked(task | {"future": [], "past": [], "reads": reads, "scaler": "robust"}, columns, test)["seconds"])


def scored(sequences: Sequences, rows: Tensor, said: Tensor, season: int) -> float:
    """The mean over origins, as `evaluate` has it, of forecasts [n, horizon] after flat rows [n] of one series."""
    y = sequences.values["y"].double()
    steps = torch.arange(1, said.shape[1] + 1)
    each = [mase(y[row + steps], own, y[: row + 1], season) for row, own in zip(rows.tolist(), said, strict=True)]
    return float(torch.stack(each).nanmean())


def asked(task: dict[str, Any], columns: dict[str, Any], sequences: Sequences) -> dict[str, Any]:
    """What the other environment answers to a task on columns of one series."""
    frequency = sequences.frequency()
    task = task | {"frequency": "MS" if frequency.months else f"{round(frequency.seconds)}s"}
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "data.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["unique_id", *columns])
            writer.writerows(zip(["a"] * sequences.steps, *columns.values(), strict=True))
        Path(folder, "task.json").write_text(json.dumps(task))
        script = str(Path(__file__).with_name("forecasts_peers.py"))
        done = subprocess.run(
            [PYTHON, script, folder], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": ""}
        )
        if done.returncode:
            raise RuntimeError(f"neuralforecast failed: {done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(Path(folder, "answer.json").read_text())
        return answer


def _columns(sequences: Sequences) -> tuple[dict[str, Any], list[str]]:
    """Columns of numbers, without gaps, and the names of those known ahead, the calendar's among them."""
    assert sequences.time is not None
    seconds = sequences.values[sequences.time.name]
    frequency = sequences.frequency()
    columns: dict[str, Any] = {"ds": (seconds.numpy() * 1e6).astype("int64").astype("datetime64[us]").astype(str)}
    future = []
    for each in sequences.fields.values():
        if each.role != "time":
            columns |= _numbers(each, sequences.values[each.name])
        if each.role == "known":
            future.append(each.name)
    calendar = Calendar(frequency.months * YEAR / 12 + frequency.seconds)(seconds)
    days = {f"calendar_{n}": column.tolist() for n, column in enumerate(calendar.T)}
    return columns | days, [*future, *days]


def _numbers(each: Field, values: Tensor) -> dict[str, Any]:
    """A column of numbers, the last one where one is missing; or one for each name of a category."""
    if each.kind == "category":
        return {f"{each.name}_{n}": (values == n).double().tolist() for n in values.unique().tolist()}
    found = values.double().numpy()
    there = np.maximum.accumulate(np.where(np.isnan(found), -1, np.arange(len(found))))
    first = int((there >= 0).argmax())
    return {each.name: found[np.where(there < 0, there[first], there)].tolist()}
