"""A summary made in a process of its own is the same, fails as it would here, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tasks.errors import HarvestError, StorageError
from tasks.records import RunPaths
from tasks.run_config import DatasetSource, RunConfig
from tasks.run_plan import plan_run
from tasks.store import publish_json, read_json
from tasks.summary_process import summarize_apart
from tests.harvest_command import environment
from tests.synthetic import write_run

PARENT = "import sys; from pathlib import Path; from tasks.summary_process import *; summarize_apart(Path(sys.argv[1]))"


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    plan = plan_run(RunConfig(dataset=DatasetSource(questions=8)), tmp_path)
    run = write_run(plan.paths.root, accuracy=1.0)
    publish_json(plan.to_json(), run.config)
    return run


def summaries_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "tasks.summary_process" in child.cmdline()]


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for 30 s")


def test_it_makes_the_report_and_the_views(run: RunPaths) -> None:
    report = summarize_apart(run.root)

    assert report == read_json(run.report)
    assert (report["num_rollouts"], report["mean_reward"], report["run_dir"]) == (64, 1.0, str(run.root))
    assert run.report_html.is_file()
    assert (run.root / "README.md").is_file()


def test_a_failure_has_its_type(run: RunPaths) -> None:
    run.report.mkdir()
    with pytest.raises(StorageError, match=r"could not write .*report\.json"):
        summarize_apart(run.root)


def test_a_view_that_fails_is_a_warning(run: RunPaths, caplog: pytest.LogCaptureFixture) -> None:
    run.report_html.mkdir()
    assert summarize_apart(run.root)["num_rollouts"] == 64

    (record,) = caplog.records
    assert record.getMessage().startswith("report.html could not be made")
    assert "StorageError" in (run.logs / "summary.log").read_text()
    assert (run.root / "README.md").is_file()


def test_a_defect_names_the_log(run: RunPaths) -> None:
    publish_json({}, run.config)
    with pytest.raises(HarvestError, match=r"ended with code 1: KeyError: .*log: .*summary\.log"):
        summarize_apart(run.root)


def test_one_that_is_killed_says_so(run: RunPaths) -> None:
    with ThreadPoolExecutor(1) as pool:
        summary = pool.submit(summarize_apart, run.root)
        wait_for(lambda: summaries_of(os.getpid()) or summary.done())
        summaries_of(os.getpid())[0].kill()
        with pytest.raises(HarvestError, match="was killed, as the kernel does when memory runs out"):
            summary.result()
    assert summarize_apart(run.root)["num_rollouts"] == 64


def test_it_dies_with_the_flow(run: RunPaths) -> None:
    flow = subprocess.Popen([sys.executable, "-c", PARENT, str(run.root)], env=environment())
    wait_for(lambda: summaries_of(flow.pid))
    (summary,) = summaries_of(flow.pid)
    flow.send_signal(signal.SIGKILL)
    flow.wait()
    # who adopts it may leave it as a zombie
    wait_for(lambda: not summary.is_running() or summary.status() == psutil.STATUS_ZOMBIE)
    assert not run.report.exists()
