"""Check that a local model directory is complete and undamaged, before an engine tries to load it."""

import glob
from pathlib import Path

from tasks.errors import ConfigError
from tasks.plan.model_config import read_model_config, read_model_object
from tasks.plan.safetensors_header import TensorInfo, read_safetensors_header
from tasks.units import MIB

INDEX = "model.safetensors.index.json"

TOKENIZER_FILES = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "tekken", "spiece")
"""How the names of a tokenizer's files begin."""

_MOST_BYTES = {("chat_template",): 4 * MIB, (*TOKENIZER_FILES, "sentencepiece"): 512 * MIB}
"""How large a file may be that is read whole, by how its name begins. Tokenizers have up to about 35 MB."""

_OBJECTS = (
    "added_tokens.json",
    "generation_config.json",
    "hf_quant_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
"""What an engine reads where it is there."""

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

    Checks config.json and other small files, the tokenizer and, unless ``load_format`` is "dummy", every safetensors
    shard that the index names: that it exists, has the length that its header says, and holds the tensors that the
    index puts there. Of weights in another format (PyTorch .bin or .pt, GGUF) it checks only that they exist. Reads no
    weights.
    """
    if not path.is_dir():
        found = "a file" if path.exists() else "missing"
        raise ConfigError(f"model directory {path} is {found}. Give the path of a directory with config.json")
    for file in path.iterdir():
        _check_file(file)
    for file in path.glob("additional_chat_templates/*"):
        _check_file(file, "chat_template")
    read_model_config(path)
    for name in _OBJECTS:
        if (path / name).exists():
            read_model_object(path / name, missing="download it")
    _check_tokenizer(path)
    if load_format != "dummy":
        if glob.has_magic(str(path)):
            # it would find no weights, or those of other directories
            raise ConfigError(f"vLLM reads *, ? and [ in the path {path} as a pattern. Rename the model's directory")
        _check_weights(path)


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


def _check_file(file: Path, kind: str | None = None) -> None:
    """Raise ConfigError when ``file`` is none, or too large for one whose name begins with ``kind``, else its own."""
    if file.is_dir() or not file.exists():
        return
    if not file.is_file():
        # the engine would wait for it
        raise ConfigError(f"{file} is no file, but a pipe, a socket or a device. Remove it")
    for beginnings, most in _MOST_BYTES.items():
        if (kind or file.name).startswith(beginnings) and (size := file.stat().st_size) > most:
            raise ConfigError(
                f"{file} has {size:,} bytes, and such a file may have {most:,} at most. Download the file again"
            )


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
    content = read_model_object(index, missing="download it")
    mapping = content.get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(shard, str) for shard in mapping.values()):
        raise ConfigError(f"{index} has no weight_map with names of files. Download the file again")
    return mapping
