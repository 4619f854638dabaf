"""The state of a layer or a model: a flat mapping from names to tensors, each with the batch as its first axis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from recurra import options, sealed
from recurra.errors import InputError, one_line
from recurra.options import shown
from recurra.problem import cast

PAIRS = sealed.OWN + "complex128"
"""In the metadata of a file, the names of entries of that type, for which safetensors has no place: they lie there as
pairs of float64."""


class State(dict[str, Tensor]):
    """Names to tensors [B, ...]. What a layer returns, and takes to continue; nothing is hidden elsewhere."""

    def __repr__(self) -> str:
        return f"State({', '.join(f'{name} {_summary(value)}' for name, value in self.items())})"

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
        """A copy that shares no memory, nor do its rows."""
        return self.map(lambda tensor: tensor.clone(memory_format=torch.contiguous_format))

    def copy(self) -> State:
        """The same tensors under the same names."""
        return State(self)

    def __or__(self, other: Any) -> State:
        return State(super().__or__(other)) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> State:
        return State(super().__ror__(other)) if isinstance(other, dict) else NotImplemented

    def __reduce__(self) -> tuple[type[State], tuple[dict[str, Tensor]]]:
        """Pickled as a plain dict, the one form that `torch.load` reads without being told to trust the file."""
        return State, (dict(self),)

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
        """Write the state as safetensors with a digest of its content; the file appears whole or not at all.

        Raises InputError if `metadata` is not of text, or if safetensors has no place for an entry.
        """
        path, told = options.path("path", path), {} if metadata is None else metadata
        if not isinstance(told, Mapping) or not all(isinstance(text, str) for pair in told.items() for text in pair):
            raise InputError(f"metadata is {shown(metadata)}; expected a dict of str to str")
        if own := [name for name in told if name.startswith(sealed.OWN)]:
            raise InputError(f"metadata names {shown(own[0])}; expected names that do not begin with {sealed.OWN!r}")
        pairs = [name for name, tensor in self._tensors() if tensor.dtype is torch.complex128]
        content = {n: torch.view_as_real(v.resolve_conj()) if n in pairs else v for n, v in self.items()}
        sealed.write(path, "state", content, dict(told) | ({PAIRS: json.dumps(pairs)} if pairs else {}))

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> State:
        """Read a state that `save` wrote.

        Raises InputError if the file is not one, if its content is not what was written, or if there is no such device.
        """
        path, place = options.path("path", path), _device(device)
        tensors, facts = sealed.read(path, f"state file {str(path)!r} cannot be read")
        state = cls(tensors)
        try:
            for name in json.loads(facts.get(PAIRS, "[]")):
                state[name] = torch.view_as_complex(state[name])
        except (ValueError, LookupError, TypeError, RuntimeError, RecursionError) as error:
            raise InputError(f"state file {str(path)!r} cannot be read: {one_line(error)}") from error
        return state.to(place)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The entries, each looked at."""
        for name, tensor in self.items():
            if not isinstance(tensor, Tensor):
                raise InputError(f"state[{shown(name)}] is {shown(tensor)}; expected a tensor [B, ...]")
            yield name, tensor


def _summary(value: object) -> str:
    """Shape, dtype, and the device unless it is the usual one."""
    if not isinstance(value, Tensor):
        return shown(value)
    place = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}{place}"


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
    lowest = -rows if chosen.dtype.is_signed else 0  # of 64 bits without a sign, the largest become negative
    chosen = chosen.long().reshape(-1)
    if ((chosen < lowest) | (chosen >= rows)).any():
        raise IndexError(rows)
    return chosen


torch.serialization.add_safe_globals([State])
_pytree.register_pytree_node(
    State,
    lambda state: (list(state.values()), list(state)),
    lambda values, names: State(zip(names, values, strict=True)),
    serialized_type_name="recurra.State",
)


def joined(names: Sequence[str], states: Sequence[Mapping[str, Tensor]]) -> State:
    """The states of blocks as one, each under the name of its block."""
    return State({f"{name}.{own}": t for name, state in zip(names, states, strict=True) for own, t in state.items()})
