import json
import os
import struct
from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.plan.model_files import INDEX, check_model_files, read_weights

SHARDS = {
    "model-00001-of-00002.safetensors": {"embed.weight": (8, 4), "layer.weight": (4, 4)},
    "model-00002-of-00002.safetensors": {"head.weight": (8, 4)},
}


def write_safetensors(path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for shard, shapes in SHARDS.items():
        write_safetensors(tmp_path / shard, shapes)
    weight_map = {name: shard for shard, shapes in SHARDS.items() for name in shapes}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def grow(path: Path, size: int) -> None:
    """Give the file a size without using the disk."""
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.truncate(size)


def truncate(path: Path, *, drop: int) -> None:
    path.write_bytes(path.read_bytes()[:-drop])


def test_a_complete_model_passes_and_every_tensor_is_listed(model: Path) -> None:
    check_model_files(model)
    tensors = read_weights(model)
    assert {tensor.name for tensor in tensors} == {"embed.weight", "layer.weight", "head.weight"}
    assert sum(tensor.nbytes for tensor in tensors) == 2 * (32 + 16 + 32)


def test_a_file_of_the_safetensors_library_is_read(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    writer = pytest.importorskip("safetensors.numpy")
    writer.save_file({"a": numpy.zeros((3, 5), dtype="float16")}, tmp_path / "model.safetensors")
    (tensor,) = read_weights(tmp_path)
    assert (tensor.name, tensor.dtype, tensor.shape, tensor.nbytes) == ("a", "F16", (3, 5), 30)


FIRST, SECOND = SHARDS
DAMAGES = {
    "missing shard": (lambda m: (m / SECOND).unlink(), f"1 of 2 shards .* missing: {SECOND}"),
    "truncated data": (lambda m: truncate(m / SECOND, drop=1), f"{SECOND} is truncated: .* bytes instead of"),
    "truncated header": (lambda m: (m / FIRST).write_bytes((m / FIRST).read_bytes()[:20]), f"{FIRST} is truncated"),
    "too long": (lambda m: (m / FIRST).write_bytes((m / FIRST).read_bytes() + b"x"), f"{FIRST} is longer than"),
    "empty shard": (lambda m: (m / FIRST).write_bytes(b""), f"{FIRST} .* is not a safetensors file"),
    "LFS pointer": (
        lambda m: (m / FIRST).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n"),
        "git lfs pull",
    ),
    "garbage header": (lambda m: (m / FIRST).write_bytes(struct.pack("<Q", 4) + b"[1,]"), "header of .* be read"),
    "shards of two revisions": (lambda m: write_safetensors(m / SECOND, {"other": (2, 2)}), "head.weight"),
    "no config": (lambda m: (m / "config.json").unlink(), "config.json is missing"),
    "torn config": (lambda m: (m / "config.json").write_text("{"), "config.json cannot be read"),
    "nested config": (
        lambda m: (m / "config.json").write_text("[" * 100_000),
        "config.json cannot .* nested",
    ),
    "nested header": (
        lambda m: (m / FIRST).write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000),
        f"header of .*{FIRST} cannot be read: it is nested",
    ),
    "index of numbers": (lambda m: (m / INDEX).write_text('{"weight_map": {"a": 1}}'), "no weight_map"),
    "a pipe": (lambda m: os.mkfifo(m / "tokenizer_config.json"), "tokenizer_config.json is no file, but a pipe"),
    "a device": (lambda m: (m / "chat_template.jinja").symlink_to("/dev/zero"), "chat_template.jinja is no file"),
    "huge template": (
        lambda m: grow(m / "chat_template.jinja", 50 << 30),
        "chat_template.jinja has 53,687,.* 4,194,304",
    ),
    "huge other template": (
        lambda m: grow(m / "additional_chat_templates" / "a.jinja", 50 << 30),
        "a.jinja has .* 4,1",
    ),
    "huge tokenizer": (lambda m: grow(m / "tokenizer.json", 50 << 30), "tokenizer.json has .* 536,870,912 at most"),
    "huge settings": (lambda m: grow(m / "tokenizer_config.json", 50 << 30), "tokenizer_config.json has .* at most"),
    "huge words": (lambda m: grow(m / "vocab.txt", 50 << 30), "vocab.txt has .* at most"),
    "huge generation": (
        lambda m: grow(m / "generation_config.json", 50 << 30),
        "generation_config.json cannot .* more",
    ),
    "nested generation": (
        lambda m: (m / "generation_config.json").write_text("[" * 100_000),
        "generation_config.json cannot be read: it is nested",
    ),
    "listed generation": (
        lambda m: (m / "generation_config.json").write_text("[]"),
        "generation_config.json holds list",
    ),
    "torn settings": (
        lambda m: (m / "tokenizer_config.json").write_text("{"),
        "tokenizer_config.json cannot be read",
    ),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "no tokenizer in"),
    "half a tokenizer": (lambda m: (m / "tokenizer.json").rename(m / "vocab.json"), "no tokenizer in"),
    "no weights": (lambda m: [file.unlink() for file in [m / FIRST, m / SECOND, m / INDEX]], "no weights in"),
    "empty index": (lambda m: (m / INDEX).write_text("{}"), "no weight_map"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_error_names_the_damaged_file(model: Path, damage: str) -> None:
    inflict, message = DAMAGES[damage]
    inflict(model)
    with pytest.raises(ConfigError, match=message):
        check_model_files(model)


@pytest.mark.parametrize("name", ["run[1]", "step*", "step?"])
def test_a_path_that_vllm_reads_as_a_pattern_is_refused(model: Path, name: str) -> None:
    odd = model.rename(model.with_name(f"{model.name}-{name}"))
    with pytest.raises(ConfigError, match=r"as a pattern\. Rename the model's directory"):
        check_model_files(odd)
    check_model_files(odd, load_format="dummy")


def test_dummy_weights_need_no_files(model: Path) -> None:
    for file in model.glob("*.safetensors*"):
        file.unlink()
    check_model_files(model, load_format="dummy")


@pytest.mark.parametrize("name", ["absent", "config.json"])
def test_a_model_path_must_be_a_directory(model: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="model directory"):
        check_model_files(model / name)
