"""`python -m benchmarks`: run comparisons, print them, and write results.json and docs/performance.md.

The rows of a file are written when the last of them is there, and stay when others are measured on another day.
"""

from __future__ import annotations

import argparse
import json

from benchmarks import drop_in, engines, kernels, layers, matrix_memories, models, process, replayed, report, tasks
from recurra.memory import keep_freed_memory

FILES = (kernels, engines, layers, drop_in, matrix_memories, replayed, models, tasks, process)


def main() -> None:
    """Run the rows asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="files whose names contain this; nothing is written then")
    parser.add_argument("--write", action="store_true", help="write what --only has measured, beside the rest")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs; nothing is written")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    every = []
    for file in FILES:
        if options.only not in file.__name__:
            continue
        rows = []
        for row in file.rows(options.small):
            rows.append(row.as_dict())
            if not options.json:
                print(report._line(rows[-1]).strip(), flush=True)
        every += rows
        if not options.small and (options.write or not options.only):
            report.write(file.__name__.split(".")[-1], rows)
    if options.json:
        print(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
