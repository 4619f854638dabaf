"""docs/performance.md from benchmarks/results.json."""

from __future__ import annotations

import json
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks import own
from recurra.files import write_atomically

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results.json"
SHARES = ROOT / "benchmarks/shares.json"
PRODUCTS = ROOT / "benchmarks/products.json"
DEFAULT_JOB = ROOT / "benchmarks/default_job.json"
TOPICS = (
    "Kernels", "Parallel in time", "Layers, training step", "Drop-ins for torch.nn, training step",
    "Floors of training steps", "Matrix memories", "Models", "Tasks", "Replayed calls", "Start-up and memory",
)  # fmt: skip
"""In the order of the page."""
BITS, SECONDS = 1.56, 120
"""Bits per byte that the default job has to beat, in as much time."""
SIZES = ("rows", "inputs", "outputs")
"""Of a linear map."""
FASTER = 1.03
SOONER = 2e-6
"""`recurra.Linear` may take as many times as long as `torch.nn.Linear`, or as many seconds longer."""
INTRODUCTION = """# Performance

Made by `make bench` (`python -m benchmarks`); do not edit. Ours and the peer ran in turn in one process, float32, where
and when each table says. Times are medians in milliseconds and vary with the machine; ratios, with the smallest and
largest seen, are what counts. The process keeps freed memory
(`recurra.memory.keep_freed_memory`), for both sides: otherwise page faults of fresh memory, which every large PyTorch
result on the CPU pays for, outweigh the work itself.

Kernels, by counting: an affine scan forward must read a and b and write y, three streams, as an add does; forward and
backward read a, b and write y, then read a, b, dy and write da, db, eight streams. PyTorch's add moves four streams for
its three, since it fetches what it overwrites; large results of ours are written past the caches where their rows are
whole vectors. A selective scan needs an exponential per number of state and time step.

Layers: with them stand floors, what a training step cannot do without, timed in the same run by the fastest way known
on the machine, PyTorch's own or oneDNN's: its matrix products, once forward and twice backward, and the exponentials of
its gates and decays, once. What is above that is the rest of the pointwise work and the reading and writing of memory.
What brought the layers nearer: products by the faster of two libraries (`recurra.Linear`); matrices of recurrent
products read in panels, for eight sequences at once;
gates, SiLU and norms inside the kernel of the step; products, or what they are added up to, or the costly values made
of them, kept for the way back; what the next time step of a tile of sequences reads and writes, fetched ahead; the map
of an sLSTM's input within its step, so that its gates never lie in memory; exponentials kept while states are computed
again; loops fused, over four rows at once; contracted multiply-adds.
Tried and left, since it brought nothing here: the rows of a matrix memory slice by slice, or one row through all
readings before the next, so that they stay in the first-level cache (multiply-adds are the limit, not that cache);
shorter chunks on the way back; weights fetched ahead past the caches while streaming. An LSTM's loop is held up by
memory as much as by its products: per hidden unit and time step it reads four gates, keeps five values for the way back
and both states, and writes four gradients.

Parallel in time: the bare h = a h + b is bound by memory, of which one thread uses most: its row stands beside that of
torch.add, which no recurrence slows down. What a scan gains there depends on how much of the memory other users of the
machine leave. Where a step computes more, the scan comes nearer to the number of threads, less what its segments need
to forget the state they began with. On one thread of work per core there is nothing for a convolution or for Newton's
method to win against the compiled loop; they are measured against each other and against the reference.

Matrix memories: forward, a delta rule needs two multiply-adds per number of its memory to read it and two to write it;
backward eight, and two to run the states of a chunk again.

Models: the floor of a training step is the products of its linear maps, as many in both implementations. Transformers'
RWKV-4 is a Python loop. Streaming reads every weight once per token; beside it stands what PyTorch's sum of as many
bytes takes.
What brought the models nearer: mixes with the time step before as one kernel with several results, norms with a
derivative that reads memory seldom, a decaying memory read once per time step; while streaming, matrices read row after
row, as they lie in memory, and states in memory that a session keeps to itself.

Tasks: time of the processor, all of it on one thread.

No GPU was at hand: there is no GPU kernel yet, and nothing here was measured on one.
"""


def machine() -> str:
    """The processor in words."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    return f"{name} ({'AVX-512' if 'avx512f' in flags else 'AVX2' if 'avx2' in flags else 'SSE'})"


def write(file: str, rows: list[dict[str, Any]]) -> None:
    """Put the rows of a file in the place of those measured before, and write the page of all."""
    measured = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measured[file] = {"where": _here(), "rows": rows}
    write_atomically(RESULTS, json.dumps(measured, indent=1) + "\n")
    write_atomically(ROOT / "docs/performance.md", page(measured))


def page(measured: dict[str, Any]) -> str:
    """docs/performance.md: a table for each topic, of each place and day where it was measured."""
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for found in measured.values():
        for row in found["rows"]:
            tables.setdefault((row["topic"], found["where"]), []).append(row)
    text, last = INTRODUCTION, ""
    for (topic, where), rows in sorted(tables.items(), key=lambda entry: TOPICS.index(entry[0][0])):
        text += ("" if topic == last else f"\n## {topic}\n") + f"\nOn {where}.\n\n{_table(rows)}"
        last = topic
    return text + products(PRODUCTS) + shares(SHARES) + default_job(DEFAULT_JOB)


def write_own(rows: list[dict[str, Any]]) -> None:
    """Write the page of recurrences of one's own."""
    text = own.INTRODUCTION.format(threads=1, machine=machine(), torch=torch.__version__, day=date.today())
    for topic in dict.fromkeys(row["topic"] for row in rows):
        text += f"\n## {topic}\n\n" + _table([row for row in rows if row["topic"] == topic])
    write_atomically(ROOT / "docs/own.md", text)


def _here() -> str:
    """Where and when something is measured."""
    threads = torch.get_num_threads()
    return f"{threads} thread(s) of {machine()}, torch {torch.__version__}, {date.today()}"


def _table(rows: list[dict[str, Any]]) -> str:
    head = (
        "| what | ours, ms | peer | peer, ms | ratio | must be | met |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    return head + "".join(map(_line, rows))


def products(results: Path) -> str:
    """What `python -m benchmarks.products` found, if it has been run."""
    if not results.exists():
        return ""
    found = json.loads(results.read_text())
    names = [name for name in found["ways"][0] if name not in SIZES]
    text = "\n## Products\n\n"
    text += (
        f"Linear maps on {found['threads']} thread(s) of {found['machine']}, billions of float operations a second,\n"
    )
    text += "float32 but for the column that says otherwise, forward where nothing is said\n"
    text += "(`python -m benchmarks.products`; `recurra calibrate` prints it for your machine).\n\n"
    text += f"| rows x in x out | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}\n"
    for row in found["ways"]:
        cells = ("-" if row[name] is None else f"{row[name]:.0f}" for name in names)
        text += f"| {_shape(row)} | {' | '.join(cells)} |\n"
    text += "\n`recurra.Linear` beside `torch.nn.Linear`: times of ours over PyTorch's, the fastest of runs in turn,\n"
    text += "of a call without gradients and of a training step.\n\n"
    rows = sorted({row["rows"] for row in found["grid"]})
    text += "| in x out | what | " + " | ".join(f"{n:,} rows" for n in rows) + " |\n"
    text += "| --- | --- |" + " --- |" * len(rows) + "\n"
    for inputs, outputs in dict.fromkeys((row["inputs"], row["outputs"]) for row in found["grid"]):
        mine = {row["rows"]: row for row in found["grid"] if (row["inputs"], row["outputs"]) == (inputs, outputs)}
        for what in ("call", "step"):
            cells = (f"{mine[n][what][0] / mine[n][what][1]:.2f}" if n in mine else "" for n in rows)
            text += f"| {inputs:,} x {outputs:,} | {what} | {' | '.join(cells)} |\n"
    pairs = [(_shape(row), what, *row[what]) for row in found["grid"] for what in ("call", "step")]
    slow = [f"{name} ({what})" for name, what, a, b in pairs if a > FASTER * b and a - b > SOONER]
    return text + f"\nSlower by more than 3 % and 2 microseconds: {', '.join(slow) or 'none'}, of {len(pairs)}.\n"


def shares(results: Path) -> str:
    """What `python -m benchmarks.shares` found, if it has been run."""
    if not results.exists():
        return ""
    found = json.loads(results.read_text())
    names = [name for name in next(iter(found["rows"].values())) if name != "milliseconds"]
    text = "\n## Shares of training steps\n\n"
    text += f"Of the time of a step on {found['threads']} thread(s) of {found['machine']}, while a profiler\n"
    text += "looks on, which adds to Python's (`python -m benchmarks.shares`).\n\n"
    text += f"| model | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}\n"
    for model, row in found["rows"].items():
        text += f"| {model} | {' | '.join(f'{row[name]:.0%}' for name in names)} |\n"
    return text


def _shape(row: dict[str, Any]) -> str:
    return " x ".join(f"{row[size]:,}" for size in SIZES)


def put(section: str) -> None:
    """Put a section in the place of that of the same title in docs/performance.md, or at the end."""
    page = ROOT / "docs/performance.md"
    title, mark = section.strip().splitlines()[0], "\n## "
    head, *parts = page.read_text().split(mark)
    kept = {part.splitlines()[0]: part for part in parts} | {title.removeprefix("## "): section.removeprefix(mark)}
    write_atomically(page, mark.join([head, *kept.values()]))


def default_job(results: Path) -> str:
    """What `python -m benchmarks.default_job` found, if it has been run."""
    if not results.exists():
        return ""
    found = json.loads(results.read_text())
    ours, others = found["ours"], found["others"]
    mean = sum(row["bits_per_byte"] for row in ours) / len(ours)
    seconds = max(row["seconds"] for row in ours)
    text = "\n## Default job\n\n"
    text += f"Bits per byte of held-out text, trained one after another in one run on {found['threads']} thread(s) of\n"
    text += f"{found['machine']} (`python -m benchmarks.default_job`).\n\n"
    text += "| model | bits per byte | seconds of training | must be | met |\n| --- | --- | --- | --- | --- |\n"
    lstm = min(row["bits_per_byte"] for name, row in others.items() if "LSTM" in name)
    for limit in (BITS, lstm):
        met = "yes" if mean < limit and seconds <= SECONDS else "**no**"
        name = f"ours, the default of `recurra train`, mean of {len(ours)} seeds"
        text += f"| {name} | {mean:.3f} | {seconds:.0f} | < {limit:.3f} | {met} |\n"
    for name, row in others.items():
        text += f"| {name} | {row['bits_per_byte']:.3f} | {row['seconds']:.0f} | | |\n"
    return text


def _line(row: dict[str, Any]) -> str:
    spread = f" ({row['spread'][0]:.2f} to {row['spread'][1]:.2f})" if row["spread"] else ""
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}{spread}"
    met = {True: "yes", False: "**no**", None: ""}[row["met"]]
    name = row["name"] + (f"; {row['note']}" if row["note"] else "")
    cells = (name, _ms(row["ours_ms"]), row["peer"], _ms(row["peer_ms"]), ratio, row["target"], met)
    return f"| {' | '.join(cells)} |\n"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
