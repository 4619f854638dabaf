"""What there is to know about a layer without building it; of the library's own layers, without importing them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recurra.contract import Layer

PACKAGE = Path(__file__).parent

SMALL = 8
"""Channels of the layer that is built to find out its structure and engines; they are the same at any width."""


@dataclass(frozen=True)
class About:
    """A layer that has a name."""

    name: str
    family: str
    lane: str = ""
    """The smallest part of its state that evolves by itself: channel, head or layer."""
    title: str = ""
    """Of its paper; empty if it has none."""
    authors: str = ""
    year: int | None = None
    arxiv: str | None = None
    load: Callable[[], type[Layer]] = field(kw_only=True, repr=False, compare=False)
    """Imports its class."""

    @cached_property
    def _small(self) -> Layer:
        return self.load()(SMALL)

    @property
    def structure(self) -> Any:
        """What a step of it is, at its usual options; see `Layer.structure`."""
        return self._small.structure

    @property
    def engines(self) -> tuple[str, ...]:
        """What can run it, at its usual options."""
        import torch

        refusals = self._small.refusals(torch.zeros(1, 2, SMALL))
        return tuple(engine for engine, reason in refusals.items() if reason is None)

    def matches(self, words: str) -> bool:
        """Whether each of the words occurs in its name, family, lane or paper."""
        told = " ".join(str(x) for x in vars(self).values() if isinstance(x, str | int)).lower()
        return all(word in told for word in words.lower().split())


def of_source(name: str, family: str, file: str, kind: str, load: Callable[[], type[Layer]]) -> About:
    """Of a layer of the library, read off its source: that is a hundred times faster than importing it is.

    Args:
        file: the path of its source below the package, without suffix.
        kind: the name of its class.
    """
    facts = _assigned(_class_in(file, kind).body)
    lane, paper = facts["lane"], facts["paper"]
    if isinstance(paper, ast.Name):
        paper = _constant(file, paper.id)
    assert isinstance(lane, ast.Attribute)
    assert isinstance(paper, ast.Call)
    written = [ast.literal_eval(argument) for argument in paper.args]
    named = {word.arg: ast.literal_eval(word.value) for word in paper.keywords if word.arg}
    return About(name, family, lane.attr.lower(), *written, **named, load=load)


def of_class(name: str, family: str, kind: type[Layer]) -> About:
    """Of a layer whose class is there."""
    paper, lane = kind.paper, getattr(kind, "lane", "")
    facts = (paper.title, paper.authors, paper.year, paper.arxiv) if paper else ()
    return About(name, family, str(lane), *facts, load=lambda: kind)


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{file}.py").read_text(encoding="utf-8"))


def _class_in(file: str, kind: str) -> ast.ClassDef:
    return next(node for node in _tree(file).body if isinstance(node, ast.ClassDef) and node.name == kind)


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """Names to what is assigned to them."""
    plain = {n.targets[0].id: n.value for n in body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)}
    typed = {n.target.id: n.value for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return plain | {name: value for name, value in typed.items() if value is not None}


def _constant(file: str, name: str) -> ast.expr:
    """What a name stands for in a file, which may have it from another."""
    if (value := _assigned(_tree(file).body).get(name)) is not None:
        return value
    for node in _tree(file).body:
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return _constant(node.module.removeprefix("recurra.").replace(".", "/"), name)
    raise NameError(f"{name} in {file}")
