"""The messages of a session before its engines start, and what its replicas get."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from tasks.generation.generation_log import read_sessions
from tasks.generation.generation_session import generation_session
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import plan_run
from tasks.plan.shards import shard_dataset
from tests.support.fake_mps import install_fake_mps
from tests.support.fake_profile import FAKE_PROFILE


@pytest.mark.parametrize(
    ("shard_size", "questions", "told"),
    [
        pytest.param(1, 200, "only 48 of 128 questions can be in flight: 48 shards of 1", id="too small"),
        pytest.param(2, 200, "A shard size of 3 or more keeps the question batch full", id="nearly"),
        pytest.param(3, 200, None, id="just large enough"),
        pytest.param(None, 200, None, id="the default"),
        pytest.param(1, 40, None, id="all of a small dataset is in flight"),
    ],
)
def test_a_shard_size_too_small_for_the_question_batch_is_logged(
    tmp_path: Path, shard_size: int | None, questions: int, told: str | None
) -> None:
    profile = tmp_path / "wide.toml"
    profile.write_text(FAKE_PROFILE.replace("question_batch_size = 4", "question_batch_size = 16\nreplicas = 8"))
    dataset = tmp_path / "questions.jsonl"
    dataset.write_text("".join(f'{{"question": "{n} + 1?", "answer": "{n + 1}"}}\n' for n in range(questions)))
    config = RunConfig.model_validate(
        {"profile": str(profile), "dataset": {"path": str(dataset)}, "shard_size": shard_size}
    )
    said: list[str] = []
    with generation_session([plan_run(config, tmp_path / "runs")], listener=lambda event: None, log=said.append):
        pass
    assert len(said) == (told is not None)
    assert told is None or told in said[0]


SHARED = """
name = "shared"
model = "demo"
replicas = 2
replicas_per_gpu = 2
question_batch_size = 4

[engine]
backend = "tests.support.fake_engines:SharingEngine"
dtype = "float32"
gpu_memory_utilization = 0.9

[expect]
gpu_count = 1
gpu_memory_gib = 80
"""


@pytest.mark.slow
def test_engines_that_share_a_gpu_get_their_part_of_it_and_the_daemon_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in install_fake_mps(tmp_path / "bin").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    profile = tmp_path / "shared.toml"
    profile.write_text(SHARED)
    plan = plan_run(RunConfig.model_validate({"profile": str(profile), "shard_size": 8}), tmp_path / "runs")
    shards, said = shard_dataset(plan), list[str]()
    with (
        ThreadPoolExecutor(8) as threads,
        generation_session([plan], listener=lambda event: None, log=said.append) as pool,
    ):
        futures = [threads.submit(pool.generate, plan, shard) for shard in shards]
        while not all(future.done() for future in futures):
            pool.pump(0.2)
    assert said == ["2 engines share each GPU, with MPS on: a daemon of the run's own"]
    daemon = (tmp_path / "bin" / "daemon.env").read_text().splitlines()
    (pipes,) = [line.partition("=")[2] for line in daemon if line.startswith("CUDA_MPS_PIPE_DIRECTORY=")]
    versions = pl.read_parquet(plan.paths.root / "rollouts" / "*.parquet")["engine_version"].unique()
    # (0.9 x 80 - 1) / 2 of 80
    assert versions.to_list() == [f"fake with 0.4437 of 3, {pipes}"]
    (session,) = read_sessions(plan.paths.state / "generation.json")
    assert (session.replicas, session.gpus, session.mps) == (2, 1, "MPS on: a daemon of the run's own")
    assert (tmp_path / "bin" / "daemon.end").exists()
