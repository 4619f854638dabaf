"""`python -m benchmarks.forecasts [--only ROW] [--json]`: forecasts of data sets with published figures and beside
neuralforecast, on their tests; writes forecasts.json beside this file, and the table of docs/tasks.md.

Each seed trains on what lies before the test for so many seconds of the processor, on one thread. Options were chosen
on the windows before those of the test, which `--validate` forecasts instead: nothing is then written. neuralforecast
is run where it is: `make forecasts` gives it an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import forecasts_beside, tasks
from benchmarks.measure import in_turn
from recurra.data.sequences import Sequences
from recurra.data.sets import load
from recurra.memory import keep_freed_memory
from recurra.tasks.forecaster import Forecaster

FILE, PAGE = Path(__file__).with_name("forecasts.json"), Path(__file__).parents[1] / "docs" / "tasks.md"
ORIGINS, LONG = 730, 1_000_000
"""Forecast from in one pass; rows behind a new one."""
PROBE = (5, 30)
"""Updates between which the pace of training is found."""


@dataclass(frozen=True)
class Case:
    """A data set to forecast, and what its forecasts have to be better than."""

    data: str
    bars: dict[str, float]
    """Mean absolute scaled errors by name, the weakest first."""
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: int = 5
    dates: bool = True
    """Whether the model is told what day it is."""
    peers: tuple[str, ...] = ()
    """Models of neuralforecast that train as long."""
    scaler: str = "robust"
    """How those scale each window, theirs by default."""


CASES = {
    "births": Case(
        "us_births/D",
        {"asked of a minute": 0.45, "asked of ten": 0.36, "DeepAR": 0.535, "N-BEATS": 0.456, "TiRex": 0.443,
         "Chronos-2": 0.327, "TFT": 0.315},
        60, {"holidays": "US", "head": "quantile"},
    ),
    "births, no dates": Case("us_births/D", {"DeepAR": 0.535}, 15, {"head": "quantile"}, dates=False),
    "births by week": Case(
        "us_births/W", {"DeepAR": 1.45, "N-BEATS": 1.40, "PatchTST": 1.23, "TiRex": 1.046, "Chronos-2": 0.979},
        8, {"head": "quantile"},
    ),
    "births by month": Case(
        "us_births/M", {"DeepAR": 0.760, "TiRex": 0.602, "AutoARIMA": 0.466}, 4,
        {"head": "quantile", "memory": 12, "width": 16, "batch": 4},
    ),
    "m1": Case("m1_yearly", {"asked": 4.40, "Chronos-Bolt": 4.4047}, 5, {"window": 24, "memory": 10}),
    "demand": Case(
        "elecdemand", {}, 15, {"head": "quantile", "scale": "fit", "dropout": 0.0}, 3, peers=("LSTM", "GRU")
    ),
    "beijing": Case("beijing", {}, 15, {"head": "quantile"}, 3, peers=("LSTM", "GRU"), scaler="standard"),
}  # fmt: skip

COSTS = "costs"
ROWS = [*CASES, COSTS]


def dateless(sequences: Sequences) -> Sequences:
    """Without the column of times."""
    fields = [each for each in sequences.fields.values() if each.role != "time"]
    return Sequences(fields, {each.name: sequences.values[each.name] for each in fields}, sequences.offsets)


def paced(settings: dict[str, Any], data: Sequences, seconds: float) -> int:
    """As many updates as the processor does in so many seconds."""
    times: list[float] = []
    Forecaster(**settings | {"steps": PROBE[1]}).fit(data, lambda _: times.append(time.process_time()))
    return max(1, int(seconds * (PROBE[1] - PROBE[0]) / (times[PROBE[1] - 1] - times[PROBE[0] - 1])))


def run(case: Case, validate: bool) -> Iterator[dict[str, Any]]:
    """What is known after each seed of ours, and after the peers that are there."""
    split = load(case.data)
    train, test = (split.train, split.validation) if validate else (split.validation, split.test)
    if not case.dates:
        train, test = dateless(train), dateless(test)
    settings = {"horizon": split.horizon} | case.settings
    steps, peers, seeds = paced(settings, train, case.seconds), dict[str, Any](), list[dict[str, Any]]()
    row = {"data": case.data, "model": repr(Forecaster(**settings)), "steps": steps, "seeds": seeds, "peers": peers}
    for seed in range(case.seeds):
        began = time.process_time()
        model = Forecaster(**settings | {"steps": steps, "seed": seed}).fit(train)
        seconds = time.process_time() - began
        report = model.evaluate(test, windows=split.windows, season=split.season)
        seeds.append({name: report[name] for name in ("mase", "mae", "crps", "coverage")} | {"seconds": seconds})
        print(f"{case.data}, seed {seed}: MASE {report['mase']:.4f} after {seconds:.0f} s", flush=True)
        row |= {name: report[name] for name in ("floors", "parameters", "origins")}
        yield row
    for name in case.peers if forecasts_beside.here() else ():
        peers[name] = forecasts_beside.beside(name, test, split, case.seconds, case.scaler)
        yield row


def costs() -> dict[str, Any]:
    """What forecasts from many origins and a new row take, in seconds of the processor."""
    split, times = load("us_births/D"), list[float]()
    model = Forecaster(horizon=split.horizon, steps=5).fit(split.train)
    for _ in range(7):
        began = time.process_time()
        report = model.evaluate(split.test, windows=ORIGINS, stride=1)
        times.append(time.process_time() - began)
    peers = {}
    if forecasts_beside.here():
        for reads in (3 * split.horizon, 365):
            peers[f"{reads} days"] = forecasts_beside.walked(split.test, split.horizon, ORIGINS, reads)
    young = tasks.fitted(100)
    pairs = in_turn(tasks.stream(young), tasks.stream(tasks.after(young, LONG)), 15, clock=time.process_time)
    rows = [min(side) / 1e3 / tasks.ROWS for side in zip(*pairs, strict=True)]
    return {"walk": min(times), "parameters": report["parameters"], "peers": peers, "rows": rows}


def told(found: dict[str, Any]) -> str:
    """The costs as a table."""
    lines = ["| what | takes | has to | met |", "| --- | --- | --- | --- |"]
    for reads, seconds in found["peers"].items():
        ratio = seconds / found["walk"]
        met = "yes" if ratio >= 10 else "**no**"
        name = (
            f"`evaluate` from {ORIGINS} daily origins, scores included; a trained LSTM of neuralforecast, each origin"
        )
        times = f"{1e3 * found['walk']:.0f} ms; {1e3 * seconds:.0f} ms: {ratio:.1f} times as long"
        lines.append(f"| {name} from {reads} alone, without scores | {times} | be 10 times as fast | {met} |")
    young, old = found["rows"]
    met = ["yes" if good else "**no**" for good in (young <= 150e-6, old <= 1.1 * young)]
    lines.append(f"| a new row by `stream(id).update(row)` | {1e6 * young:.0f} us | be 150 us at most | {met[0]} |")
    ratio = f"{old / young:.2f} times as long"
    lines.append(f"| the same behind {LONG:,} rows rather than 100 | {ratio} | be 1.1 at most | {met[1]} |")
    return "\n".join(lines)


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row for each case, weakest bars first."""
    names = ("forecasts", "MASE: median (of each seed)", "to be below", "naive", "trained for", "parameters")
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for name in CASES:
        if (row := found.get(name)) is None:
            continue
        errors = sorted(seed["mase"] for seed in row["seeds"])
        middle, seconds = statistics.median(errors), statistics.median(seed["seconds"] for seed in row["seeds"])
        bars = CASES[name].bars | {f"neuralforecast's {peer}": own["mase"] for peer, own in row["peers"].items()}
        told = ", ".join(f"{bar:.4g} {who}{'' if middle < bar else ' **(not met)**'}" for who, bar in bars.items())
        floors = ", ".join(f"{floor['mase']:.4f} {kind}" for kind, floor in row["floors"].items())
        span = f"{middle:.4f} ({', '.join(f'{error:.3f}' for error in errors)})"
        lines.append(f"| {name} | {span} | {told} | {floors} | {seconds:.0f} s of one core | {row['parameters']:,} |")
    return "\n".join(lines)


def write(found: dict[str, dict[str, Any]]) -> None:
    """The results, and the tables made of them."""
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    text = table(found) + ("\n\n" + told(found[COSTS]) if COSTS in found else "")
    shown = re.compile(r"(<!-- forecasts -->\n).*?(<!-- end -->)", re.DOTALL)
    PAGE.write_text(shown.sub(lambda m: m[1] + text + "\n" + m[2], PAGE.read_text(), count=1))


def main() -> None:
    """Run the rows asked for, and write what is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecasts", description=__doc__)
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--validate", action="store_true", help="forecast the windows before the test; write nothing")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    for name in options.only or ROWS:
        for row in [costs()] if name == COSTS else run(CASES[name], options.validate):
            if not options.validate:
                write((json.loads(FILE.read_text()) if FILE.exists() else {}) | {name: row})
        if options.json:
            print(json.dumps({name: row}, indent=1), flush=True)


if __name__ == "__main__":
    main()
