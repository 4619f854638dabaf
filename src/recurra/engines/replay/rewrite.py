"""Fewer operations for the same numbers: chains of views as one, products turned so that weights are, sums inside."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.prepared import Operation, Origin, Result, Weight, origins, replaced
from recurra.engines.replay.record import Recorder

Numbered = dict[int, Operation]
"""Operations by the number that their results go by, in order."""

aten = torch.ops.aten
RESHAPES = (aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims,
            aten.squeeze.default)  # fmt: skip
TRANSPOSE = aten.transpose.int
PRODUCTS: dict[Any, Any] = {aten.mm.default: aten.addmm.default, aten.bmm.default: aten.baddbmm.default}
"""Products, and each with a sum."""


def read(operation: Operation) -> list[Any]:
    """The values that an operation reads."""
    return origins((operation.args, operation.kwargs))


# --- views ------------------------------------------------------------------------------------------------------------
def straightened(
    operations: Numbered, recorder: Recorder, results: tuple[Origin, ...]
) -> tuple[Numbered, tuple[Origin, ...]]:
    """Every chain of views that keep the order of numbers as one view of what the chain begins with."""
    begins: dict[Origin, Origin] = {}
    same: dict[Origin, Origin] = {}
    made: dict[tuple, Origin] = {}
    left: Numbered = {}

    def known(origin: Origin) -> Origin:
        return same.get(origin, origin)

    for number, operation in operations.items():
        operation = replace(operation, args=replaced(operation.args, known), kwargs=replaced(operation.kwargs, known))
        if operation.with_gradient and _keeps_order(operation, recorder):
            result, shape = Result(number), recorder.examples[Result(number)].shape
            begin = begins[result] = begins.get(operation.args[0], operation.args[0])
            there = recorder.examples[begin].shape == shape
            earlier = begin if there else made.setdefault((begin, shape), result)
            if earlier is not result:
                same[result] = earlier
                continue
            operation = Operation(aten.view.default, (begin, list(shape)), {}, True)
        left[number] = operation
    return left, tuple(map(known, results))


def _keeps_order(operation: Operation, recorder: Recorder) -> bool:
    """Whether an operation gives the same numbers in the same order, in another shape at most."""
    if operation.function in RESHAPES:
        return True
    axes = _axes(operation, recorder)
    if axes is None:
        return False
    shape = recorder.examples[operation.args[0]].shape
    moved = [axis for axis in axes if shape[axis] != 1]
    return moved == sorted(moved)


def _axes(operation: Operation, recorder: Recorder) -> list[int] | None:
    """For a permutation of axes where each result's axis was; None for any other operation."""
    function, args = operation.function, operation.args
    if function not in (aten.t.default, aten.permute.default, TRANSPOSE):
        return None
    count = recorder.examples[args[0]].dim()
    if function is aten.permute.default:
        return [axis % count for axis in args[1]]
    axes = list(range(count))
    if count > 1:
        a, b = (axis % count for axis in (args[1:] or (0, 1)))
        axes[a], axes[b] = b, a
    return axes


# --- products ---------------------------------------------------------------------------------------------------------
def products(operations: Numbered, recorder: Recorder, results: tuple[Origin, ...]) -> Numbered:
    """(A B^T)^T as B A^T, of which one factor often is the same at all times; and a product and a sum as one."""
    rewriter = _Products(operations, recorder, results)
    for number, operation in operations.items():
        rewriter.add(number, operation)
    return rewriter.left


class _Products:
    def __init__(self, operations: Numbered, recorder: Recorder, results: tuple[Origin, ...]) -> None:
        self._uses = Counter([o for operation in operations.values() for o in read(operation)] + list(results))
        self._recorder = recorder
        self.left: Numbered = {}

    def add(self, number: int, operation: Operation) -> None:
        """The next operation, in the best form."""
        if operation.with_gradient and self._is_transpose(operation):
            product = self._maker(operation.args[0], *PRODUCTS)
            if product is not None and self._uses[operation.args[0]] == 1:
                a, b = product.args
                operation = Operation(product.function, (self._transposed(b), self._transposed(a)), {}, True)
            else:
                operation = Operation(TRANSPOSE, (operation.args[0], -2, -1), {}, True)
        elif operation.with_gradient and operation.function is aten.add.Tensor and not operation.kwargs:
            operation = self._with_product(operation, self._recorder.examples[Result(number)])
        self.left[number] = operation

    def _is_transpose(self, operation: Operation) -> bool:
        """Whether the last two axes change places, and no others."""
        axes = _axes(operation, self._recorder)
        return (
            axes is not None and len(axes) in (2, 3) and axes == [*range(len(axes) - 2), len(axes) - 1, len(axes) - 2]
        )

    def _maker(self, origin: Any, *functions: Any) -> Operation | None:
        """The operation that made a value, if it is one of these."""
        made = self.left.get(origin.operation) if isinstance(origin, Result) else None
        return made if made is not None and made.with_gradient and made.function in functions else None

    def _further(self, function: Any, args: tuple, example: Tensor) -> Result:
        """The result of an operation that the step does not do."""
        operation = Operation(function, args, {}, True)
        number = self._recorder.further(operation, example)
        self.left[number] = operation
        return Result(number)

    def _transposed(self, origin: Origin) -> Origin:
        made = self._maker(origin, TRANSPOSE)
        if made is not None and made.args[1:] == (-2, -1):
            return made.args[0]
        return self._further(TRANSPOSE, (origin, -2, -1), self._recorder.examples[origin].mT)

    def _with_product(self, operation: Operation, example: Tensor) -> Operation:
        """A sum; as one operation with a product that is part of it."""
        for whole, term in (operation.args, operation.args[::-1]):
            if not all(isinstance(part, Weight | Result) for part in (whole, term)) or self._uses[whole] != 1:
                continue
            seen = self._recorder.examples
            if seen[whole].dtype != seen[term].dtype or seen[whole].shape != example.shape:
                continue
            product = self._maker(whole, *PRODUCTS)
            if product is not None:
                return Operation(PRODUCTS[product.function], (term, *product.args), {}, True)
            view = self._maker(whole, aten.view.default)
            product = None if view is None or self._uses[view.args[0]] != 1 else self._maker(view.args[0], *PRODUCTS)
            if product is not None and view is not None and seen[term].dim() <= 1:
                # A bias, which may as well be added before the shape changes, if the last axis stays.
                inner = seen[view.args[0]]
                if inner.shape[-1] == example.shape[-1]:
                    both = self._further(PRODUCTS[product.function], (term, *product.args), inner)
                    return Operation(aten.view.default, (both, list(example.shape)), {}, True)
        return operation


# --- values alone -----------------------------------------------------------------------------------------------------
def values_only(operations: Numbered, results: tuple[Origin, ...]) -> Numbered:
    """Singular values and eigenvalues without the vectors that nobody reads: PyTorch leaves those out where it can."""
    wanted = {o for operation in operations.values() for o in read(operation)} | set(results)
    left: Numbered = {}
    for number, operation in operations.items():
        which, function = VALUES_ONLY.get(operation.function, (0, None))
        others = {Result(number, i) for i in range(3) if i != which}
        left[number] = operation if function is None or others & wanted else replace(operation, function=function)
    return left


def _singular_values(a: Tensor, *_: Any) -> tuple[None, Tensor, None]:
    return None, torch.linalg.svdvals(a), None


def _eigenvalues(a: Tensor, uplo: str = "L", *_: Any) -> tuple[Tensor, None]:
    return torch.linalg.eigvalsh(a, uplo), None


VALUES_ONLY: dict[Any, tuple[int, Any]] = {
    aten._linalg_svd.default: (1, _singular_values),
    aten._linalg_eigh.default: (0, _eigenvalues),
}
"""Decompositions: which of the results are the values, and what gives these alone."""
