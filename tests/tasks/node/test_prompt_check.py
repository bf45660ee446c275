"""A run's prompts are checked once: what was found is on record, and a run that has begun goes on."""

from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.node.prompt_check import check_rendered, find_prompts, read_prompts, record_prompts
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tests.support.chat_templates import NO_SYSTEM, model_with


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    """Eight arms whose system prompts the chat template leaves out."""
    model = model_with(NO_SYSTEM, tmp_path / "model")
    return plan_run(config_from_parameters({"model": str(model), "questions": 2}), tmp_path / "runs")


def test_a_run_with_bad_prompts_is_refused_unless_it_has_begun(plan: RunPlan) -> None:
    with pytest.raises(ConfigError, match=r"^arms step_by_step, concise, "):
        check_rendered(plan)
    assert not plan.paths.root.exists()
    open_run(plan)
    check_rendered(plan)


def test_a_run_without_a_question_is_refused(tmp_path: Path) -> None:
    dataset = tmp_path / "empty.jsonl"
    dataset.write_text('{"question": "", "answer": "1"}\n{"question": " ", "answer": "1"}\n')
    plan = plan_run(config_from_parameters({"dataset": str(dataset)}), tmp_path / "runs")
    with pytest.raises(ConfigError, match="every question is empty"):
        check_rendered(plan)


def test_what_was_found_is_kept(plan: RunPlan) -> None:
    open_run(plan)
    found = record_prompts(plan)
    assert (len(found.problems), len(found.warnings)) == (1, len(plan.arms.arms))
    (plan.model.path / "chat_template.jinja").write_text("{{ gone }}")
    assert read_prompts(plan.paths.root) == find_prompts(plan) == record_prompts(plan) == found


def test_a_damaged_record_is_not_used(plan: RunPlan) -> None:
    open_run(plan)
    found = record_prompts(plan)
    plan.paths.prompts.write_text("{")
    assert find_prompts(plan) == found
