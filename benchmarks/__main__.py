"""`python -m benchmarks`: run every comparison, print it, and write results.json and docs/performance.md."""

from __future__ import annotations

import argparse
import json

import torch

from benchmarks import drop_in, engines, kernels, layers, matrix_memories, models, own, process, replayed, report, tasks
from recurra.memory import keep_freed_memory


def main() -> None:
    """Run the rows asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="rows whose file or name contains this; nothing is written then")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs; nothing is written")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    rows = []
    for module in (kernels, engines, layers, drop_in, matrix_memories, own, replayed, models, tasks, process):
        if options.only and options.only not in module.__name__:
            continue
        for row in module.rows(options.small):
            rows.append(row.as_dict())
            if not options.json:
                print(report._line(rows[-1]).strip(), flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))
    if not options.only and not options.small:
        report.write(rows, torch.get_num_threads())


if __name__ == "__main__":
    main()
