"""Where a step leaves PyTorch: the numbers that it takes along would be those of the example, for ever."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from recurra.compiler.frontend.refusal import Untraceable, where, within_library

OUTSIDE = {
    Tensor.numpy: "numpy()", Tensor.__array__: "numpy", Tensor.tolist: "tolist()", Tensor.apply_: "apply_()",
    Tensor.map_: "map_()", Tensor.data_ptr: "data_ptr()", Tensor.__dlpack__: "dlpack",
    Tensor.untyped_storage: "untyped_storage()",
}  # fmt: skip
"""Ways out of PyTorch, where operations are not seen any more."""


class Leaving(TorchFunctionMode):
    """Refuses what takes numbers out of PyTorch."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in OUTSIDE and not within_library():
            raise Untraceable(f"step takes numbers out of PyTorch by {OUTSIDE[func]}{where()}: use its operations")
        if func is Tensor.__deepcopy__:
            return args[0].clone()
        return func(*args, **(kwargs or {}))
