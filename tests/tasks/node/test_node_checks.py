import json
from pathlib import Path
from typing import Any

import pytest

from profiles.load import load_profile
from tasks.errors import ConfigError, HarvestError, PreflightFailed
from tasks.node.check_result import CheckResult, Status
from tasks.node.memory_plan import MemoryPlan
from tasks.node.node_checks import check_memory_plan, check_node
from tasks.node.preflight_report import PreflightReport
from tasks.node.preflight_view import render_plan, render_preflight
from tasks.storage.destination import CHECK_PREFIX
from tests.tasks.plan.test_model_files import FIRST, SECOND, model, truncate

__all__ = ["model"]

CPU = load_profile("cpu-demo")


def result(status: Status, **more: Any) -> CheckResult:
    return CheckResult(name="memory", status=status, value="1 GiB", limit="2 GiB", remedy="Buy more", **more)


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        (("pass", "skipped"), "pass"),
        (("skipped",), "pass"),
        ((), "pass"),
        (("pass", "warn", "skipped"), "warn"),
        (("warn", "fail"), "fail"),
    ],
)
def test_the_report_has_the_worst_outcome(statuses: tuple[Status, ...], worst: str) -> None:
    report = PreflightReport(checks=tuple(result(status) for status in statuses))
    assert report.worst == worst
    if worst != "fail":
        report.raise_if_failed()


def test_failure_lists_every_failed_check_with_its_remedy() -> None:
    report = PreflightReport(checks=(result("fail", gpu=3), result("pass"), result("fail")))
    with pytest.raises(PreflightFailed) as caught:
        report.raise_if_failed()
    assert "GPU 3 memory: 1 GiB (limit: 2 GiB). Buy more" in str(caught.value)
    assert str(caught.value).count("Buy more") == 2


def test_cpu_profile_passes_without_a_driver(model: Path, tmp_path: Path) -> None:
    (model / "config.json").write_text(
        json.dumps(
            {"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
            | {"num_key_value_heads": 1, "vocab_size": 128, "max_position_embeddings": 4096}
        )
    )
    report = check_node(CPU, model_path=model, runs_dir=tmp_path / "runs", arms=8)
    assert report.failed == ()
    assert report.plan is not None
    assert report.plan.in_flight == CPU.question_batch_size * 8
    assert json.loads(json.dumps(report.to_json()))["worst"] == report.worst


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda m: (m / SECOND).unlink(), SECOND),
        (lambda m: truncate(m / FIRST, drop=4), f"{FIRST} is truncated"),
        (lambda m: (m / "tokenizer.json").unlink(), "no tokenizer"),
    ],
)
def test_broken_model_is_bad_input(model: Path, tmp_path: Path, damage: Any, named: str) -> None:
    damage(model)
    report = check_node(CPU, model_path=model, runs_dir=tmp_path)
    with pytest.raises(ConfigError, match=named):
        report.raise_if_failed()


def test_gpu_profile_on_a_node_without_a_gpu_fails(tmp_path: Path) -> None:
    report = check_node(load_profile("h100x8"), model_path=None, runs_dir=tmp_path)
    if not any("no NVIDIA driver was found" in check.value for check in report.failed):
        pytest.skip("this node has an NVIDIA driver")
    with pytest.raises(PreflightFailed, match="use a profile that fits this node: cpu-demo"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("destination", "status", "error"),
    [
        ("{here}/bucket", "pass", None),
        ("{here}/file/bucket", "fail", ConfigError),
        ("nosuch://bucket/prefix", "fail", ConfigError),
    ],
)
def test_destination_check_writes_an_object(
    tmp_path: Path, destination: str, status: str, error: type[HarvestError] | None
) -> None:
    (tmp_path / "file").write_text("")
    url = destination.format(here=tmp_path)
    report = check_node(CPU, model_path=None, runs_dir=tmp_path, upload_url=url)
    (check,) = [check for check in report.checks if check.name == "destination"]
    assert check.status == status
    assert url in check.value
    if error is not None:
        with pytest.raises(error, match="destination"):
            report.raise_if_failed()
    assert not list(tmp_path.rglob(f"{CHECK_PREFIX}*"))


def render(renderable: Any) -> str:
    from flows.console import PlainConsole

    console = PlainConsole(width=200, no_color=True)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_view_groups_gpus_and_shows_each_remedy() -> None:
    checks = [CheckResult(name="ECC", status="pass", value="on", gpu=gpu) for gpu in range(7)]
    checks.append(CheckResult(name="ECC", status="warn", value="off", limit="on", remedy="Turn it on", gpu=7))
    text = render(render_preflight(PreflightReport(checks=tuple(checks))))
    assert "0-6" in text
    assert "Turn it on" in text
    assert text.count("ECC") == 2


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"problems": ("not one fits",)}, "fail"),
        ({"doubts": ("not one fits",), "kv_tokens": 0, "is_estimate": True}, "warn"),
        ({"unknown": ("cannot tell",)}, "skipped"),
        ({"kv_tokens": 4096, "batch_fits": False}, "warn"),
        ({"kv_tokens": 4096, "batch_fits": True}, "pass"),
    ],
)
def test_status_of_the_memory_plan_check(more: dict[str, Any], status: str) -> None:
    assert check_memory_plan(memory_plan(**more)).status == status


def memory_plan(**more: Any) -> MemoryPlan:
    known = {"profile": "test", "device": "cuda", "tensor_parallel_size": 1, "max_model_len": 2048}
    return MemoryPlan(**known, **({"expected_length": 500, "in_flight": 128, "running": 128} | more))


def test_view_shows_the_figures_of_the_plan_below_the_checks() -> None:
    text = render(render_preflight(PreflightReport(checks=(result("pass"),), plan=memory_plan(kv_tokens=8192))))
    assert text.index("1 GiB") < text.index("memory plan, profile test") < text.index("preflight: pass")
    assert "8,192" in text


def test_plan_view_shows_what_is_unknown(model: Path, tmp_path: Path) -> None:
    plan = check_node(CPU, model_path=model, runs_dir=tmp_path).plan
    assert plan is not None
    assert "cannot tell" in render(render_plan(plan, ()))
