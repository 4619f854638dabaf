"""`python -m benchmarks.own`: these rows alone, and docs/own.md made of them."""

from __future__ import annotations

from benchmarks import own, report
from recurra.memory import keep_freed_memory


def main() -> None:
    """Run all rows, print them, and write the page."""
    keep_freed_memory()
    rows = []
    for row in own.rows(small=False):
        rows.append(row.as_dict())
        print(report._line(rows[-1]).strip(), flush=True)
    report.write_own(rows)


if __name__ == "__main__":
    main()
