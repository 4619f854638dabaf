"""From a step to machine code. `machine` is the processor that it is made for."""

from recurra.compiler.targets import host as machine

__all__ = ["machine"]
