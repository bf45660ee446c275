"""Read the header of a safetensors file, which lists its tensors, without loading them.

The file has three parts: 8 bytes with the length N of the header, little-endian; N bytes of JSON, which map names to
dtype, shape and data_offsets; and the data, whose length is the largest data offset
(https://github.com/huggingface/safetensors#format).
"""

import math
from dataclasses import dataclass
from pathlib import Path

from profiles.regular_files import open_regular, parse_json
from tasks.errors import ConfigError

_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors library
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One stored tensor. ``nbytes`` is its size in ``file``, and ``offset`` where it begins there."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path = Path()
    offset: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_safetensors_header(path: Path) -> tuple[TensorInfo, ...]:
    """Return the tensors of ``path``, in the header's order.

    Raises ConfigError when the file is not a safetensors file, or is shorter or longer than its header says.
    """
    size = path.stat().st_size
    with open_regular(path) as file:
        start = file.read(_LENGTH_BYTES)
        if start and _LFS_POINTER.startswith(start):
            raise ConfigError(f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` in {path.parent}")
        length = int.from_bytes(start, "little")
        if len(start) < _LENGTH_BYTES or not 2 <= length <= _LARGEST_HEADER:
            raise ConfigError(f"{path} ({size} bytes) is not a safetensors file. Download the file again")
        text = file.read(length)
    if len(text) < length:
        raise _wrong_size(path, size, at_least=_LENGTH_BYTES + length)
    tensors, data_bytes = _parse(path, text)
    expected = _LENGTH_BYTES + length + data_bytes
    if size != expected:
        raise _wrong_size(path, size, at_least=expected)
    return tensors


def _parse(path: Path, text: bytes) -> tuple[tuple[TensorInfo, ...], int]:
    try:
        header = parse_json(text)
        header.pop("__metadata__", None)
        tensors = tuple(
            TensorInfo(
                name=name,
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                nbytes=entry["data_offsets"][1] - entry["data_offsets"][0],
                file=path,
                offset=_LENGTH_BYTES + len(text) + entry["data_offsets"][0],
            )
            for name, entry in header.items()
        )
        data_bytes = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"the safetensors header of {path} cannot be read: {error}. Download the file again"
        ) from error
    return tensors, data_bytes


def _wrong_size(path: Path, size: int, *, at_least: int) -> ConfigError:
    what = "truncated" if size < at_least else "longer than its header says"
    return ConfigError(f"{path} is {what}: {size} bytes instead of {at_least}. Download the file again")
