"""The messages of a session before its engines start."""

from pathlib import Path

import pytest

from flows.shards.generation_session import generation_session
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import plan_run
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
    with generation_session(plan_run(config, tmp_path / "runs"), listener=lambda event: None, log=said.append):
        pass
    assert len(said) == (told is not None)
    assert told is None or told in said[0]
