"""Arrays and data frames out of pickles of others, without their libraries and without running anything of theirs.

A pickle may call any function it names. Here it may name none but those below, which make arrays and hold data.
"""

from __future__ import annotations

import io
import lzma
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import InputError


class _Held:
    """Stands for a class of pandas: keeps what it is given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _index(_: Any, data: dict[str, Any]) -> Any:
    """An index by its labels, a range as a range."""
    return data["data"] if "data" in data else range(data["start"], data["stop"], data["step"])


def _from_buffer(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _reconstruct(_: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array to be filled."""
    return np.ndarray(shape, np.dtype(dtype))


def _encoded(text: str, codec: str) -> bytes:
    """Bytes, as the second protocol writes them."""
    if codec != "latin1":
        raise pickle.UnpicklingError(f"bytes are written as {codec}")
    return text.encode("latin1")


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encoded,
    ("builtins", "slice"): slice,
    ("pandas.core.frame", "DataFrame"): _Held,
    ("pandas.core.internals.managers", "BlockManager"): _Held,
    ("pandas._libs.internals", "_unpickle_block"): lambda values, placement, _: (values, placement),
    ("pandas.core.indexes.base", "_new_Index"): _index,
    ("pandas.core.indexes.base", "Index"): None,
    ("pandas.core.indexes.range", "RangeIndex"): None,
}
"""Every name that a pickle may say, and what it gets."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        name, module = name, module.replace("numpy._core", "numpy.core")
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return KNOWN[module, name]


def unpickle(content: bytes, origin: str) -> Any:
    """What a pickle holds, if that is nothing but plain data, arrays and frames.

    Raises InputError if it asks for anything else, or is none.
    """
    try:
        return _Unpickler(io.BytesIO(content)).load()
    except Exception as error:
        raise InputError(f"{origin} cannot be read: {error}; expected arrays and frames, and nothing else") from error


def read_frame(content: bytes, origin: str) -> dict[str, NDArray[Any]]:
    """The columns of a data frame of pandas, packed by xz.

    Raises InputError as `unpickle`.
    """
    frame = unpickle(lzma.decompress(content), origin)
    try:
        blocks, (names, _) = frame.state["_mgr"].arguments
        columns = {
            names[place]: row
            for values, placement in blocks
            for place, row in zip(
                range(len(names))[placement] if isinstance(placement, slice) else placement, values, strict=True
            )
        }
        return {str(name): columns[name] for name in names}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{origin} holds no data frame: {error}") from error


def read_object(content: bytes, origin: str) -> Any:
    """The Python object in a .npy file of NumPy. Raises InputError as `unpickle`."""
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    return unpickle(stream.read(), origin)
