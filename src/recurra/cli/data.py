"""`recurra data`: the data sets that can be had by name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from recurra.cli import show


def data(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets to fetch. Without any: a list of all.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List data sets, or bring some to this machine. They can then be named wherever a file of data can.

    Example:

      recurra data elecdemand brown
    """
    from recurra.data import sets

    if not names:
        _list([_about(found) for found in sets.SETS.values()], json)
        return
    for name in names:
        sets.get(name)
    done = []
    with show.progress("fetching", len(names)) as update:
        for number, name in enumerate(names):
            update(number, name)
            done.append(sets.fetch(name))
    if json:
        show.as_json([_about(found) for found in done])
        return
    for found in done:
        print(f"{found.name}: {found.about}. Licence: {found.licence}. Split: {found.split}.")


def _about(found: Any) -> dict[str, Any]:
    """A data set as plain data."""
    package = found.package
    source = None if package is None else f"{package.registry}: {package.name} {package.version}"
    megabytes = 0 if package is None else package.megabytes
    told = {"name": found.name, "task": found.task, "about": found.about, "split": found.split}
    return told | {"source": source, "megabytes": megabytes, "licence": found.licence, "here": found.here}


def _list(sets: list[dict[str, Any]], json: bool) -> None:
    if json:
        show.as_json(sets)
        return
    rows = [
        [s["name"], s["task"], "yes" if s["here"] else f"{s['megabytes']:g} MB", s["about"], s["licence"]] for s in sets
    ]
    show.table("Data sets", ["name", "task", "here", "about", "licence"], rows)
