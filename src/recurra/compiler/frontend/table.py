"""The table of all rules, filled: `lowering` says what a rule is, and each of the other files enters its own."""

from recurra.compiler.frontend import (  # noqa: F401
    lowering_backward,
    lowering_complex,
    lowering_index,
    lowering_linalg,
    lowering_norms,
    lowering_order,
    lowering_pointwise,
    lowering_shapes,
    lowering_signal,
    lowering_slopes,
)
from recurra.compiler.frontend.lowering import BY_NUMBER, LOWERING

__all__ = ["BY_NUMBER", "LOWERING"]
