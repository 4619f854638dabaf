"""`python -m benchmarks.checkouts REVISION`: is this checkout as fast as another revision of it?

Both run at the same time, each in a process of its own with a cache of its own, and take turns: what slows the machine
down slows both. Every row is a whole training step, a pass forward or a single call.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
STEPS = {
    "rnn": (8, 256, 64), "lstm": (16, 256, 128), "gru": (16, 256, 128), "slstm": (8, 256, 128),
    "min-gru": (8, 1024, 256), "min-lstm": (8, 512, 128), "lru": (4, 512, 128), "mamba": (2, 512, 128),
    "mamba2": (2, 512, 128), "rg-lru": (4, 512, 128), "gla": (2, 256, 128), "retnet": (2, 256, 128),
    "mlstm": (2, 256, 128), "rwkv4": (4, 512, 128), "rwkv7": (2, 256, 128), "delta-net": (2, 256, 128),
    "gated-delta-net": (2, 256, 128), "hgrn2": (2, 256, 128), "s5": (4, 512, 128), "s4d": (4, 512, 64),
    "ttt-linear": (2, 256, 64), "titans": (1, 128, 32),
}  # fmt: skip
"""Training steps: layer -> [B, T, D]."""
SINGLE = ("gru", "min-gru", "lstm", "mamba", "gated-delta-net", "rwkv7")
"""Layers of which one time step of one sequence is timed, at width 64."""
CALLS = 200
"""Single calls timed together."""


def works() -> dict[str, Callable[[], object]]:
    """Every row of this process's own checkout."""
    import torch

    import recurra

    torch.manual_seed(0)
    found: dict[str, Callable[[], object]] = {}
    for name, shape in STEPS.items():
        layer = recurra.layer(name, shape[2])
        x = torch.randn(shape, requires_grad=True)
        found[f"{name} {list(shape)}, training step"] = _training_step(layer, x)
        found[f"{name} {list(shape)}, kernel forward"] = _kernel(layer, x.detach())
    for name in SINGLE:
        found[f"{name}, {CALLS} single calls"] = _single_calls(recurra.layer(name, 64).eval())
    return found


def _training_step(layer, x) -> Callable[[], object]:
    import torch

    weights = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x)[0].sum(), weights, allow_unused=True)


def _kernel(layer, x) -> Callable[[], object]:
    import torch

    from recurra.engines import compiled

    with torch.no_grad():
        problem = layer.problem(x)

    @torch.no_grad()
    def forward() -> object:
        return compiled.run(problem)

    return forward


def _single_calls(layer) -> Callable[[], object]:
    import torch

    x = torch.randn(1, 64)

    @torch.no_grad()
    def calls() -> None:
        state = layer.initial_state(1)
        for _ in range(CALLS):
            _, state = layer.advance(x, state)

    return calls


def serve() -> None:
    """Run the row whose name comes in on a line, and answer with the milliseconds of the best of three."""
    rows = works()
    print(json.dumps(list(rows)), flush=True)
    for line in sys.stdin:
        work, best = rows[json.loads(line)], math.inf
        for _ in range(3):
            began = time.perf_counter()
            work()
            best = min(best, 1e3 * (time.perf_counter() - began))
        print(best, flush=True)


class Checkout:
    """A process that runs rows of the sources in `root`."""

    def __init__(self, root: Path, cache: str):
        environment = os.environ | {"PYTHONPATH": str(root / "src"), "RECURRA_CACHE_DIR": cache}
        command = [sys.executable, str(Path(__file__)), "--serve"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.rows = json.loads(self._answer())

    def time(self, row: str) -> float:
        """Milliseconds of a row."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(row) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"{self.process.args} ended without an answer")
        return line


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The sources of a revision, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(root), revision], check=True)
        try:
            yield root
        finally:
            subprocess.run([*git, "remove", "--force", str(root)], check=True)


def compare(revision: str, repeats: int, only: str) -> list[dict[str, object]]:
    """Both checkouts in turn, row by row: the best time of each, and the one over the other."""
    with ExitStack() as stack:
        before = stack.enter_context(checkout(revision))
        caches = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2)]
        sides = [Checkout(root, cache) for root, cache in zip((before, ROOT), caches, strict=True)]
        for side in sides:
            stack.callback(side.process.kill)
        results = []
        for row in sides[1].rows:
            if only in row and row in sides[0].rows:
                for side in sides:
                    side.time(row)  # kernels are compiled, caches are warm
                pairs = [[side.time(row) for side in sides] for _ in range(repeats)]
                old, new = (min(column) for column in zip(*pairs, strict=True))
                results.append({"row": row, "before_ms": old, "now_ms": new, "ratio": new / old})
                print(f"{row:55} {old:9.3f} {new:9.3f} ms  x {new / old:.3f}", file=sys.stderr, flush=True)
        return results


def main() -> None:
    """Compare, and print what came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkouts", description=__doc__)
    parser.add_argument("revision", nargs="?", help="what to compare with, such as main~20")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    if options.revision is None:
        parser.error("the revision to compare with is missing")
    rows = compare(options.revision, options.repeats, options.only)
    if options.json:
        print(json.dumps(rows, indent=1))
    ratios = [float(str(row["ratio"])) for row in rows]
    mean, worst = math.exp(sum(map(math.log, ratios)) / len(ratios)), max(ratios)
    print(f"geometric mean x {mean:.3f}, worst x {worst:.3f}, of {len(rows)} rows", file=sys.stderr)


if __name__ == "__main__":
    main()
