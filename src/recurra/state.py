"""The state of a layer or a model: a flat mapping from names to tensors, each with the batch as its first axis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from recurra import options
from recurra.errors import InputError
from recurra.files import write_atomically
from recurra.options import shown


class State(dict[str, Tensor]):
    """Names to tensors [B, ...]. What a layer returns, and takes to continue; nothing is hidden elsewhere."""

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """The state with `function` applied to every tensor."""
        return State({name: function(tensor) for name, tensor in self.items()})

    def to(self, *args: Any, **kwargs: Any) -> State:
        """`Tensor.to` on every entry."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def detach(self) -> State:
        """Cut from the graph, as truncated back-propagation needs between two windows."""
        return self.map(torch.Tensor.detach)

    def clone(self) -> State:
        """A copy that shares no memory."""
        return self.map(torch.Tensor.clone)

    def rows(self, index: Any) -> State:
        """The batch rows `index` selects: an int (kept as a batch of one), a slice, or a tensor of positions.

        Raises InputError if there are no such rows.
        """
        try:
            chosen = torch.tensor([index]) if isinstance(index, int) else index
            return self.map(lambda tensor: tensor[chosen])
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            rows = next((len(tensor) for tensor in self.values()), 0)
            raise InputError(
                f"index is {shown(index)}; expected an int, a slice or a tensor of positions below {rows}"
            ) from error

    def under(self, prefix: str) -> State:
        """The entries below `prefix.`, without it."""
        head = prefix + "."
        return State({name[len(head) :]: tensor for name, tensor in self.items() if name.startswith(head)})

    def prefixed(self, prefix: str) -> State:
        """Every entry renamed to `prefix.name`."""
        return State({f"{prefix}.{name}": tensor for name, tensor in self.items()})

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors together."""
        return sum(tensor.nbytes for tensor in self.values())

    def save(self, path: str | Path, metadata: dict[str, str] | None = None) -> None:
        """Write the state as safetensors; the file appears whole or not at all."""
        from safetensors.torch import save

        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in self.items()
        }
        write_atomically(options.path("path", path), save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> State:
        """Read a state that `save` wrote. Raises InputError if the file is not one."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = options.path("path", path)
        try:
            return cls(load_file(path, device=str(device)))
        except (OSError, SafetensorError) as error:
            raise InputError(f"state file {str(path)!r} cannot be read: {error}") from error


_pytree.register_pytree_node(
    State,
    lambda state: (list(state.values()), list(state)),
    lambda values, names: State(zip(names, values, strict=True)),
    serialized_type_name="recurra.State",
)
