"""A run planned on a node: what ``--profile auto`` becomes there, and that the run is found again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from profiles.load import DEMO_MODEL, load_profile
from profiles.profile_text import profile_text
from tasks.errors import ConfigError
from tasks.node.plan_here import check_profile_of_nodes, may_share, plan_here, profile_here
from tasks.plan.run_config import RunConfig, config_from_parameters
from tasks.plan.run_directory import open_run, reproduce_command
from tasks.plan.run_plan import RunPlan, plan_run
from tests.support.fake_mps import install_fake_mps
from tests.support.fake_nvml import MIB, FakeReader, healthy

ASKED = {"profile": "auto", "model": "demo", "questions": 8}
BUILT_FOR_CUDA = (13, 0)


def reader(count: int, **changes: Any) -> FakeReader:
    return FakeReader(gpus=[healthy(index, **changes) for index in range(count)])


def plan(
    tmp_path: Path, gpus: FakeReader, *, cuda: tuple[int, int] | None = BUILT_FOR_CUDA, **parameters: Any
) -> RunPlan:
    config = config_from_parameters({**ASKED, **parameters})
    return plan_here(config, tmp_path / "runs", reader=gpus, cuda=lambda: cuda)


def test_gpus_get_an_engine_each(tmp_path: Path) -> None:
    found = plan(tmp_path, reader(8))
    assert (found.profile.replicas, found.profile.expect.gpu_count) == (8, 8)
    assert found.profile.baseline == "h100x8-baseline"
    assert found.choices[0].startswith("profile auto: 8 engines of 1 GPU, bfloat16, max_model_len 2048")
    assert found.run_id.startswith("h100-80gb-hbm3-demo-demo-")
    stored = found.to_json()
    assert stored["profile"] == found.profile.model_dump(mode="json")


def test_the_run_is_found_on_fewer_gpus_and_under_a_saved_profile(tmp_path: Path) -> None:
    eight, four = plan(tmp_path, reader(8)), plan(tmp_path, reader(4))
    file = tmp_path / "saved.toml"
    file.write_text(profile_text(four.profile))
    saved = plan(tmp_path, reader(0), profile=str(file))
    assert eight.profile.replicas != four.profile.replicas
    assert {eight.run_id, four.run_id, saved.run_id} == {eight.run_id}
    open_run(eight)
    open_run(four)
    assert json.loads(four.paths.config.read_text())["profile"]["replicas"] == 4


def test_the_number_of_replicas_is_part_of_other_fingerprints(tmp_path: Path) -> None:
    shipped = load_profile("h100x8-replicas")
    plans = []
    for replicas in (8, 4):
        file = tmp_path / f"{replicas}.toml"
        file.write_text(profile_text(shipped.model_copy(update={"replicas": replicas})))
        plans.append(plan(tmp_path, reader(8), profile=str(file)))
    assert plans[0].fingerprint != plans[1].fingerprint


@pytest.mark.parametrize(
    ("gpus", "cuda", "visible"),
    [
        (FakeReader(no_driver="no library"), None, None),
        (FakeReader(no_driver="no library"), BUILT_FOR_CUDA, None),
        (reader(0), BUILT_FOR_CUDA, None),
        (reader(8), None, None),
        (reader(8, memory_total=None, error="GPU is lost"), None, None),
        (reader(8), BUILT_FOR_CUDA, ""),
        (reader(8), BUILT_FOR_CUDA, "-1"),
    ],
    ids=[
        "no driver",
        "no driver, CUDA build",
        "no GPUs",
        "CPU build",
        "CPU build, lost GPUs",
        "hidden",
        "hidden by -1",
    ],
)
@pytest.mark.parametrize("model", ["demo", None])
def test_without_gpus_that_can_be_used_it_is_the_demo_profile(
    tmp_path: Path,
    gpus: FakeReader,
    cuda: tuple[int, int] | None,
    visible: str | None,
    model: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = plan(tmp_path, gpus, cuda=cuda, model=model)
    named = plan_run(config_from_parameters({**ASKED, "profile": "cpu-demo"}), tmp_path / "runs")
    assert (found.profile, found.run_id) == (named.profile, named.run_id)
    assert found.to_json()["config"]["profile"] == "cpu-demo"
    # a GPU that is there and not used is never passed over without a word
    assert bool(found.choices) == bool(gpus.gpus)


@pytest.mark.parametrize(
    ("gpus", "visible", "told"),
    [
        (reader(8), "MIG-GPU-1/1/0", r"'MIG-GPU-1/1/0', and its first entry names none of this node's 8 GPUs"),
        (reader(2), "2", r"indices from 0 to 1 or UUIDs"),
        (reader(8), "GPU-", r"names none"),
        (reader(8), "0,0", r"names GPU 0 twice"),
        (
            reader(8, memory_total=None, error="GPU is lost"),
            "5",
            r"cannot tell the memory of GPUs: GPU 5 \(GPU is lost\)",
        ),
        (reader(1, memory_total=0), None, r"GPUs: GPU 0 \(its memory is unknown\)"),
        (reader(1, memory_total=None), None, r"GPUs: GPU 0 \(its memory is unknown\)"),
    ],
)
def test_gpus_that_are_meant_and_cannot_be_used_do_not_become_the_cpu(
    tmp_path: Path, gpus: FakeReader, visible: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match=told):
        plan(tmp_path, gpus)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", [None, ""])
def test_a_gpu_without_a_name_gets_a_profile_that_asks_for_none(tmp_path: Path, name: str | None) -> None:
    found = plan(tmp_path, reader(1, name=name)).profile
    assert (found.name, found.expect.gpu_name) == ("unnamed-gpu", None)


def test_a_gpu_that_does_not_answer_is_named(tmp_path: Path) -> None:
    gpus = [
        healthy(index, **({"memory_total": None, "error": "GPU is lost"} if index == 1 else {})) for index in range(3)
    ]
    found = plan(tmp_path, FakeReader(gpus=gpus))
    assert found.profile.replicas == 2
    assert found.choices[-1] == (
        "not counted, as it does not answer: GPU 1 (GPU is lost). CUDA_VISIBLE_DEVICES=0,2 leaves it out"
    )


def test_a_node_with_gpus_wants_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names no model\. Give --model"):
        plan(tmp_path, reader(8), model=None)
    # preflight checks the GPUs without one
    found = profile_here("auto", None, reader=reader(8), cuda=lambda: BUILT_FOR_CUDA)
    assert found.profile.replicas == 8


def test_only_visible_gpus_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,2")
    cards = FakeReader(gpus=[healthy(index, memory_total=(40_000 + index) * MIB) for index in range(8)])
    found = plan(tmp_path, cards)
    assert found.profile.replicas == 2
    assert found.profile.expect.gpu_memory_gib == (40_002 - 551) // 1024


@pytest.mark.parametrize(
    ("max_tokens", "longest", "length"), [(512, 4096, 2048), (2000, 4096, 2304), (3000, 4096, 3072), (512, 1024, 1024)]
)
def test_the_length_grows_with_what_is_asked_for(tmp_path: Path, max_tokens: int, longest: int, length: int) -> None:
    model = Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text()) | {"max_position_embeddings": longest}
    (model / "config.json").write_text(json.dumps(config))
    found = plan(tmp_path, reader(1), model=str(model), max_tokens=max_tokens)
    assert found.profile.engine.max_model_len == length
    assert any("prompts and max_tokens need" in told for told in found.choices) == (length > 2048)


def test_more_than_the_model_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_tokens is 5000, but profile h100-80gb-hbm3 has max_model_len 4096"):
        plan(tmp_path, reader(1), max_tokens=5000)


def test_the_command_of_a_run_names_its_profile(tmp_path: Path) -> None:
    for gpus, name in ((reader(1), "auto"), (reader(0), "cpu-demo")):
        stored = plan(tmp_path, gpus).to_json()
        assert f"--profile {name} --model demo" in reproduce_command(stored["config"])


def test_several_nodes_do_not_get_the_profile_of_a_collector_without_gpus(tmp_path: Path) -> None:
    config = RunConfig(profile="auto", model="demo")
    check_profile_of_nodes(config, plan(tmp_path, reader(8)))
    without = plan(tmp_path, reader(0))
    with pytest.raises(ConfigError, match="Give the profile with which all nodes are to generate"):
        check_profile_of_nodes(config, without)
    check_profile_of_nodes(config.model_copy(update={"profile": "cpu-demo"}), without)


@pytest.mark.parametrize(
    ("gpus", "cores", "has_mps", "shared"),
    [(1, 8, True, True), (1, 7, True, False), (8, 64, True, True), (8, 63, True, False), (1, 8, False, False)],
)
def test_engines_share_gpus_where_mps_and_enough_cores_are_there(
    tmp_path: Path, gpus: int, cores: int, has_mps: bool, shared: bool
) -> None:
    environment = install_fake_mps(tmp_path / "bin") if has_mps else {"PATH": str(tmp_path)}
    assert may_share(gpus, cores, environment) == shared
