"""Check that a local model directory is complete and undamaged, before an engine tries to load it."""

import glob
from pathlib import Path
from typing import Any

from profiles.regular_files import parse_json, read_regular
from tasks.errors import ConfigError
from tasks.plan.safetensors_header import TensorInfo, read_safetensors_header

INDEX = "model.safetensors.index.json"

_JSON_BYTES = 256 << 20
"""Far more than an index of weights has."""

_TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tekken.json",),
)


def check_model_files(path: Path, *, load_format: str = "auto") -> None:
    """Raise ConfigError, naming the file, when ``path`` is not a complete model directory.

    Checks config.json, the tokenizer and, unless ``load_format`` is "dummy", every safetensors shard that the index
    names: that it exists, has the length that its header says, and holds the tensors that the index puts there. Of
    weights in another format (PyTorch .bin or .pt, GGUF) it checks only that they exist. Reads no weights.
    """
    if not path.is_dir():
        found = "a file" if path.exists() else "missing"
        raise ConfigError(f"model directory {path} is {found}. Give the path of a directory with config.json")
    for file in path.iterdir():
        if file.exists() and not file.is_file() and not file.is_dir():
            # the engine would wait for it
            raise ConfigError(f"{file} is no file, but a pipe, a socket or a device. Remove it")
    read_model_config(path)
    _check_tokenizer(path)
    if load_format != "dummy":
        if glob.has_magic(str(path)):
            # it would find no weights, or those of other directories
            raise ConfigError(f"vLLM reads *, ? and [ in the path {path} as a pattern. Rename the model's directory")
        _check_weights(path)


def read_model_config(path: Path) -> dict[str, Any]:
    """Return the model's config.json. Raises ConfigError when it is missing or not a JSON object."""
    return _read_object(path / "config.json", missing="the engine needs it: download the model's config.json")


def read_model_json(path: Path) -> Any:
    """Return the JSON value in a file of a model. Raises OSError and ValueError."""
    return parse_json(read_regular(path, _JSON_BYTES).decode("utf-8"))


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files that an engine loads from ``path``, by name: those of the index, else all.

    The list is empty when the weights have another format. Raises ConfigError when the index cannot be read.
    """
    index = path / INDEX
    if index.exists():
        return sorted({path / shard for shard in _weight_map(index).values()})
    files = sorted(path.glob("*.safetensors"))
    # Mistral repositories hold the weights twice; vLLM loads the Hugging Face ones
    return [file for file in files if not file.name.startswith("consolidated")] or files


def read_weights(path: Path) -> tuple[TensorInfo, ...]:
    """Return every tensor of the model's safetensors files. Raises ConfigError when a file is missing or damaged."""
    return tuple(tensor for file in _present(path) for tensor in read_safetensors_header(file))


def _check_tokenizer(path: Path) -> None:
    complete = any(all((path / name).is_file() for name in names) for names in _TOKENIZERS)
    if not complete and not any(path.glob("*.tiktoken")):
        choices = ", ".join(" with ".join(names) for names in _TOKENIZERS)
        raise ConfigError(f"no tokenizer in {path}: expected one of {choices}. Download the model's tokenizer files")


def _check_weights(path: Path) -> None:
    files = _present(path)
    if not files:
        if any(match for suffix in ("bin", "pt", "gguf") for match in path.glob(f"*.{suffix}")):
            return
        raise ConfigError(f'no weights in {path}: expected *.safetensors. Download them, or set load_format to "dummy"')
    holder = {tensor.name: file.name for file in files for tensor in read_safetensors_header(file)}
    index = path / INDEX
    if index.exists():
        for name, shard in _weight_map(index).items():
            if holder.get(name) != shard:
                raise ConfigError(
                    f"{path / shard} does not hold the tensor {name} that {INDEX} puts there: the files are of "
                    "different revisions. Download the whole model again"
                )


def _present(path: Path) -> list[Path]:
    files = weight_files(path)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(files)} shards of {path} are missing: {', '.join(missing)} (named in {INDEX}). "
            "Download them"
        )
    return files


def _weight_map(index: Path) -> dict[str, str]:
    content = _read_object(index, missing="download it")
    mapping = content.get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(shard, str) for shard in mapping.values()):
        raise ConfigError(f"{index} has no weight_map with names of files. Download the file again")
    return mapping


def _read_object(path: Path, *, missing: str) -> dict[str, Any]:
    try:
        value = read_model_json(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; {missing}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Download the file again") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds {type(value).__name__}, not a JSON object. Download the file again")
    return value
