"""The state of a layer or a model: a flat mapping from names to tensors, each with the batch as its first axis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import _pytree

from recurra import options
from recurra.errors import InputError
from recurra.files import write_atomically
from recurra.options import shown
from recurra.problem import cast

PAIRS = "complex128"
"""In the metadata of a file, the names of entries of that type, for which safetensors has no place: they lie there as
pairs of float64."""


class State(dict[str, Tensor]):
    """Names to tensors [B, ...]. What a layer returns, and takes to continue; nothing is hidden elsewhere."""

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """The state with `function` applied to every tensor. Raises InputError if it does not return tensors."""
        options.function("function", function)
        after = State({name: function(tensor) for name, tensor in self._tensors()})
        for name, value in after.items():
            if not isinstance(value, Tensor):
                raise InputError(f"function returned {shown(value)} for {name!r}; expected a tensor")
        return after

    def to(
        self, device: torch.device | str | int | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """On a device, in the precision of a dtype, or both; a dtype may come first.

        Complex entries stay complex, and integers what they are. Raises InputError if there is no such device, or if
        the dtype is not of floating point.
        """
        if dtype is None and isinstance(device, torch.dtype):
            device, dtype = None, device
        place = None if device is None else _device(device)
        if dtype is None:
            return self.map(lambda tensor: tensor.to(place))
        if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype.is_complex):
            raise InputError(f"dtype is {shown(dtype)}; expected one of floating point, such as torch.float64")
        real = dtype.to_real()
        return self.map(lambda tensor: cast(tensor.to(place), real))

    def detach(self) -> State:
        """Cut from the graph, as truncated back-propagation needs between two windows."""
        return self.map(torch.Tensor.detach)

    def clone(self) -> State:
        """A copy that shares no memory."""
        return self.map(torch.Tensor.clone)

    def rows(self, index: int | slice | Sequence[int] | Tensor) -> State:
        """The batch rows `index` selects: an int (kept as a batch of one), a slice, positions, or a mask of bool.

        Raises InputError if there are no such rows.
        """
        rows = min((len(tensor) if tensor.dim() else 0 for _, tensor in self._tensors()), default=0)
        try:
            chosen = index if isinstance(index, slice) else _positions(index, rows)
            return self.map(lambda tensor: tensor[chosen])
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"index is {shown(index)}; expected an int, a slice or a tensor of positions below {rows}"
            ) from error

    def under(self, prefix: str) -> State:
        """The entries below `prefix.`, without it; there may be none. Raises InputError if it is no str."""
        options.instance("prefix", prefix, str)
        head = prefix + "."
        return State({name[len(head) :]: tensor for name, tensor in self.items() if name.startswith(head)})

    def prefixed(self, prefix: str) -> State:
        """Every entry renamed to `prefix.name`. Raises InputError if it is no str."""
        options.instance("prefix", prefix, str)
        return State({f"{prefix}.{name}": tensor for name, tensor in self.items()})

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors together."""
        return sum(tensor.nbytes for _, tensor in self._tensors())

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write the state as safetensors; the file appears whole or not at all.

        Raises InputError if `metadata` is not of text, or if safetensors has no place for an entry.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save

        path, told = options.path("path", path), {} if metadata is None else metadata
        if not isinstance(told, Mapping) or not all(isinstance(text, str) for pair in told.items() for text in pair):
            raise InputError(f"metadata is {shown(metadata)}; expected a dict of str to str")
        content, pairs = {}, [name for name, tensor in self._tensors() if tensor.dtype is torch.complex128]
        for name, tensor in self._tensors():
            try:
                plain = torch.view_as_real(tensor.resolve_conj()) if name in pairs else tensor
                content[name] = plain.detach().cpu().clone(memory_format=torch.contiguous_format)
                save({name: torch.empty(0, dtype=plain.dtype)})
            except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
                what = f"{str(tensor.dtype)[6:]} on {tensor.device}, {str(tensor.layout)[6:]}"
                raise InputError(
                    f"state[{shown(name)}] is {what}; a file holds dense tensors that have values, under names of str"
                ) from error
        told = dict(told) | ({PAIRS: json.dumps(pairs)} if pairs else {})
        write_atomically(path, save(content, told or None))

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> State:
        """Read a state that `save` wrote. Raises InputError if the file is not one, or there is no such device."""
        from safetensors import SafetensorError, safe_open

        path, place = options.path("path", path), _device(device)
        try:
            with safe_open(path, framework="pt", device=str(place)) as file:
                state = cls({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                for name in json.loads((file.metadata() or {}).get(PAIRS, "[]")):
                    state[name] = torch.view_as_complex(state[name])
            return state
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"state file {str(path)!r} cannot be read: {error}") from error

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The entries, each looked at."""
        for name, tensor in self.items():
            if not isinstance(tensor, Tensor):
                raise InputError(f"state[{shown(name)}] is {shown(tensor)}; expected a tensor [B, ...]")
            yield name, tensor


def _device(value: object) -> torch.device:
    """A device that is there."""
    try:
        return torch.empty(0, device=value).device  # type: ignore[call-overload]
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"device is {shown(value)}; expected one that is there, such as 'cpu'") from error


def _positions(index: object, rows: int) -> Tensor:
    """What selects batch rows, as int64 [number]. Raises an error of Python's or PyTorch's if it is none of them."""
    chosen = torch.as_tensor(index)
    if chosen.dtype is torch.bool and chosen.shape == (rows,):
        return chosen.nonzero()[:, 0]
    if chosen.dtype is torch.bool or chosen.is_floating_point() or chosen.is_complex() or chosen.dim() > 1:
        raise TypeError(f"{chosen.dtype}, {chosen.shape}")
    chosen = chosen.long().reshape(-1)
    if ((chosen < -rows) | (chosen >= rows)).any():
        raise IndexError(rows)
    return chosen


_pytree.register_pytree_node(
    State,
    lambda state: (list(state.values()), list(state)),
    lambda values, names: State(zip(names, values, strict=True)),
    serialized_type_name="recurra.State",
)
