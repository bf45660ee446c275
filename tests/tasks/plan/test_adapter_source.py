"""LoRA adapters: what is refused before an engine starts, how each is identified, and the room that they need."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles.load import DEMO_MODEL
from tasks.errors import ConfigError
from tasks.plan.adapter_files import matching_adapters
from tasks.plan.adapter_source import LoraSlots, find_adapters, with_adapter
from tasks.plan.lora_support import lacks_lora
from tasks.plan.model_source import find_model
from tests.support.harvest_command import harvest_here
from tests.support.lora_adapters import read_tensors, write_adapter, write_tensors

FILE = "adapter_model.safetensors"
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
Change = Callable[[Path], object]


def configured(**changes: object) -> Change:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def dropped(name: str) -> Change:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != name}))

    return change


def renamed(old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        tensors = read_tensors(folder / FILE)
        write_tensors(folder / FILE, {name.replace(old, new): values for name, values in tensors.items()})

    return change


def cut(rows: int) -> Change:
    def change(folder: Path) -> None:
        tensors = read_tensors(folder / FILE)
        name = f"{LAYER}.lora_B.weight"
        write_tensors(folder / FILE, tensors | {name: tensors[name][:rows]})

    return change


def without(name: str) -> Change:
    def change(folder: Path) -> None:
        tensors = read_tensors(folder / FILE)
        del tensors[name]
        write_tensors(folder / FILE, tensors)

    return change


REFUSED: list[tuple[str, Change, str]] = [
    ("no directory", shutil.rmtree, r"adapter .*/lora is missing\. Give the directory that PEFT"),
    ("no configuration", lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    ("no weights", lambda folder: (folder / FILE).unlink(), f"has no {FILE}: it is not a complete adapter"),
    (
        "weights of PyTorch",
        lambda folder: (folder / FILE).rename(folder / "adapter_model.bin"),
        r"has adapter_model\.bin, which is not read.*save it again",
    ),
    ("half the weights", lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-9]), "is truncated"),
    ("no JSON", lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    ("another method", configured(peft_type="IA3"), "has peft_type 'IA3'; only LORA"),
    ("no method", configured(peft_type=None), "has peft_type None; only LORA"),
    ("too high a rank", configured(r=513), "has a rank of 513; it must be a whole number from 1 to 512"),
    ("no rank", configured(r=None), "has a rank of None"),
    ("a pattern's rank", configured(rank_pattern={"q_proj": 0}), "has a rank of 0"),
    ("no pattern", configured(rank_pattern={"(": 4}), r"has '\(' in rank_pattern"),
    ("no number of a pattern", configured(alpha_pattern={"q_proj": "8"}), "has lora_alpha '8'; it must be a number"),
    ("a pattern that is none", configured(alpha_pattern=[8]), r"has alpha_pattern \[8\]; it must be an object"),
    ("more than a float", configured(lora_alpha=10**400), "has lora_alpha 1000.*; it must be a number"),
    ("no targets", dropped("target_modules"), "names no target_modules"),
    ("no alpha", configured(lora_alpha="8"), "has lora_alpha '8'; it must be a number"),
    ("DoRA", configured(use_dora=True), "has use_dora True, and vLLM has no DoRA. Merge the adapter"),
    ("biases", configured(bias="lora_only"), "has bias 'lora_only', and vLLM adds no biases"),
    ("whole modules", configured(modules_to_save=["lm_head"]), "has modules_to_save .*the base model's. Merge"),
    ("tokens", configured(trainable_token_indices=[5]), "has trainable_token_indices .*one table of embeddings"),
    ("another start", configured(init_lora_weights="pissa"), "has init_lora_weights 'pissa', and it changes the base"),
    ("rank of the tensors", configured(r=8), r"with lora_A 4 x \d+ and lora_B \d+ x 4, which are not of the rank 8"),
    (
        "a missing layer",
        renamed("layers.3.", "layers.4."),
        r"changes model\.layers\.4\..*, which the model does",
    ),
    ("a missing module", renamed("q_proj", "query"), r"changes model\.layers\.0\.self_attn\.query, which the model"),
    ("a wrong shape", cut(96), r"self_attn\.q_proj as if it were 96 x 128; it is 128 x 128"),
    ("half a pair", without(f"{LAYER}.lora_B.weight"), r"holds lora_A of model\.layers\.0\.self_attn\.q_proj alone"),
    (
        "embeddings",
        renamed(f"{LAYER}.lora_A.weight", "model.embed_tokens.lora_embedding_A"),
        "only pairs of lora_A",
    ),
]


@pytest.mark.parametrize(("change", "told"), [pytest.param(*each[1:], id=each[0]) for each in REFUSED])
def test_an_adapter_that_cannot_be_used_is_refused_in_one_line(
    change: Change, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(write_adapter(tmp_path / "lora"))
    options = ["--profile", "cpu-demo", "--questions", "2", "--adapter", tmp_path / "lora"]
    assert harvest_here("run", *options, "--runs-dir", tmp_path / "runs") == 2
    printed = capsys.readouterr()
    assert re.search(told, printed.err), printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--adapter", "{a}/../other/a"], "two adapters are called a: "),
        (["--adapter", "{a}/../twin"], "are the same. Give one of them"),
        (
            ["--baseline", "s3://bucket/run"],
            "baseline is s3://bucket/run, which is a run of one policy, and 2 are collected",
        ),
        (["--adapter", "{a}/../none-*"], "matches 0 paths, none of them a directory with adapter_config.json"),
    ],
)
def test_adapters_that_cannot_go_together_are_refused(
    more: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "other" / "a", seed=5)
    shutil.copytree(a, tmp_path / "twin")
    options = ["--profile", "cpu-demo", "--questions", "2", "--adapter", a, *(text.format(a=a) for text in more)]
    assert harvest_here("run", *options, "--runs-dir", tmp_path / "runs") == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_vllm_says_itself_which_architectures_take_adapters() -> None:
    assert not lacks_lora(["Qwen2ForCausalLM"])
    # derived from LlamaForCausalLM, which takes them
    assert not lacks_lora(["MistralForCausalLM"])
    assert lacks_lora(["StableLmForCausalLM"])
    assert not lacks_lora(["SmolLM3ForCausalLM"])
    assert not lacks_lora(["NobodyKnowsForCausalLM"])
    assert not lacks_lora([])


def test_a_model_to_which_nothing_can_be_added_is_refused(tmp_path: Path) -> None:
    model = Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["StableLmForCausalLM"]}))
    with pytest.raises(ConfigError, match="is a StableLmForCausalLM, to which the installed vLLM can add no LoRA"):
        find_adapters([str(write_adapter(tmp_path / "lora"))], find_model(str(model)))


def test_an_adapter_is_known_by_its_files_wherever_they_are(tmp_path: Path) -> None:
    demo = find_model("demo")
    (first,) = find_adapters([str(write_adapter(tmp_path / "lora"))], demo)
    (copied,) = find_adapters([shutil.copytree(first.path, tmp_path / "copy")], demo)
    (other,) = find_adapters([str(write_adapter(tmp_path / "other", seed=1))], demo)
    assert first.digest == copied.digest != other.digest
    configured(lora_alpha=1)(copied.path)
    assert find_adapters([str(copied.path)], demo)[0].digest != first.digest
    both = with_adapter(demo, first)
    assert (both.name, both.revision) == ("demo+lora", f"{demo.revision}+{first.digest[:12]}")
    assert both.path == demo.path
    assert len({both.weights_digest, demo.weights_digest, with_adapter(demo, other).weights_digest}) == 3


@pytest.mark.parametrize(
    ("ranks", "on_gpu", "slots"),
    [
        ((4,), False, LoraSlots(slots=2, held=2, rank=8)),
        ((4,), True, LoraSlots(slots=1, held=1, rank=8)),
        ((1,), True, LoraSlots(slots=1, held=1, rank=1)),
        ((8, 20, 1), True, LoraSlots(slots=3, held=3, rank=32)),
        ((4,) * 12, True, LoraSlots(slots=8, held=12, rank=8)),
        ((4,) * 12, False, LoraSlots(slots=13, held=13, rank=8)),
    ],
)
def test_there_is_room_for_all_adapters_of_the_largest_rank(
    ranks: tuple[int, ...], on_gpu: bool, slots: LoraSlots, tmp_path: Path
) -> None:
    names = [str(write_adapter(tmp_path / str(n), seed=n, rank=rank)) for n, rank in enumerate(ranks)]
    assert LoraSlots.of(find_adapters(names, find_model("demo")), on_gpu=on_gpu) == slots


def test_a_pattern_gives_the_complete_adapters_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for step in (1000, 900, 90):
        write_adapter(tmp_path / f"step-{step}")
    (tmp_path / "step-1100").mkdir()
    (write_adapter(tmp_path / "step-1200") / FILE).unlink()
    half = write_adapter(tmp_path / "step-1300") / FILE
    half.write_bytes(half.read_bytes()[:5000])
    (write_adapter(tmp_path / "step-1400") / "adapter_config.json").write_text('{"r": ')
    (tmp_path / "step-log.txt").touch()
    told: list[str] = []
    names = [Path(path).name for path in matching_adapters(str(tmp_path / "step-*"), told.append)]
    assert names == ["step-90", "step-900", "step-1000"]
    left = [text.partition("complete: ")[2].partition(":")[0] for text in told]
    assert left == ["step-1100", "step-1200", "step-1300", "step-1400"]
    assert matching_adapters(str(tmp_path / "step-1100"), told.append) == [str(tmp_path / "step-1100")]
