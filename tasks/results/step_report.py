"""The rewards of several runs by the step of their checkpoints, and the page that shows them."""

import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.files import publish_text
from tasks.plain_text import quoted, visible
from tasks.plan.checkpoints import step_key, steps_of
from tasks.records import OWN_SCORES
from tasks.results.finished_run import read_config
from tasks.results.metrics import ArmMetrics
from tasks.results.page_plots import StepSeries, step_plot
from tasks.results.page_template import page_template
from tasks.results.reward_interval import Interval
from tasks.results.run_report import RunReport, read_report
from tasks.results.run_state import RunState, run_state
from tasks.user_paths import is_url, user_path

_LONGEST_ID = 110
"""Characters of a run's id in the name of a page."""
_UNLIKE = ("model", "tokenizer", "chat_template")


@dataclass(frozen=True, kw_only=True)
class StepRun:
    """The run of one checkpoint: of a model, or of an adapter beside it."""

    step: int
    checkpoint: str
    report: RunReport
    state: RunState
    """The state of the run when the page is made: a run may have lost files since its report, or have failed."""

    @property
    def arms(self) -> dict[str, ArmMetrics]:
        """Each arm, and all arms together, by name."""
        return {str(arm.arm_id): arm for arm in self.report.all_arms}


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Runs with a report in the order of their steps. ``key`` is the same for all collections of these checkpoints."""

    runs: tuple[StepRun, ...]
    key: str

    @property
    def num_checkpoints(self) -> int:
        return len({run.checkpoint for run in self.runs})

    @property
    def questions(self) -> tuple[str, ...]:
        """What the runs asked and under which profile; more than one when they cannot be compared as they are."""
        asked = (
            f"{run.report.num_questions:,} questions of {run.report.dataset} on profile {run.report.profile}"
            for run in self.runs
        )
        return tuple(dict.fromkeys(asked))

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms of any run; that of all arms together is the first."""
        names = dict.fromkeys(name for run in self.runs for name in reversed(run.arms))
        first, *others = names
        return (first, *reversed(others))


def matching_runs(name: str, runs_dir: Path) -> list[str]:
    """Return the ids of the runs that match ``name``, if it is a pattern and no run; else ``name`` alone.

    Raises ConfigError when none matches.
    """
    if is_url(name) or not glob.has_magic(name) or any(user_path(path).exists() for path in (runs_dir / name, name)):
        return [name]
    known = [path.parent for path in runs_dir.glob("*/config.json") if (path.parent / "report.json").is_file()]
    if not (found := sorted(each.name for each in known if fnmatchcase(each.name, name))):
        paths = " A pattern is of ids, not of paths: give --runs-dir too." if "/" in name else ""
        raise ConfigError(f"no finished run in {runs_dir} matches {quoted(name)}.{paths} harvest runs lists them")
    return found


def read_steps(run_dirs: Sequence[Path], scores: Sequence[str] | None = None) -> StepReport:
    """Read the reports of two or more finished runs. ``scores`` has the folder of each one's scores.

    Raises ConfigError when one has no report, or DamagedFile.
    """
    configs = [read_config(run_dir) for run_dir in run_dirs]
    folders = scores or [OWN_SCORES] * len(run_dirs)
    reports = [read_report(run_dir, folder) for run_dir, folder in zip(run_dirs, folders, strict=True)]
    paths: list[str] = []
    found: list[RunReport] = []
    for run_dir, config, report in zip(run_dirs, configs, reports, strict=True):
        if report is None or not config:
            raise ConfigError(
                f"{run_dir} has no report.json, so the run is not finished: it is {run_state(run_dir)}. Finish it, or "
                "leave it out"
            )
        found.append(report)
        model = config.get("model", {})
        paths.append(str(Path(model.get("adapter", model).get("path", run_dir)).absolute()))
    # one checkpoint may have several runs, as when it changed
    checkpoints = sorted(dict.fromkeys(paths), key=step_key)
    step = dict(zip(checkpoints, steps_of(checkpoints), strict=True))
    runs = [
        StepRun(step=step[path], checkpoint=path, report=report, state=run_state(run_dir))
        for path, report, run_dir in zip(paths, found, run_dirs, strict=True)
    ]
    return StepReport(runs=tuple(sorted(runs, key=lambda run: run.step)), key=_key(paths, configs[0]))


def publish_steps(steps: StepReport, runs_dir: Path, *, by_runs: bool = False) -> Path:
    """Make and publish the page of ``steps`` beside the runs, and return its path.

    Its name is that of the checkpoints; with ``by_runs``, and of two runs, it is that of the runs.
    """
    name = steps.key
    if by_runs and len(steps.runs) == 2:
        # the end of an id tells runs apart
        name = "-and-".join(_plain(run.report.run_id)[-_LONGEST_ID:].lstrip("-.") for run in steps.runs)
    path = runs_dir / f"steps-{name}.html"
    publish_text(render_steps(steps), path)
    return path


def render_steps(steps: StepReport) -> str:
    """Return the page as text."""
    series = [StepSeries(name=arm, points=_points(steps, arm)) for arm in steps.arms]
    return visible(page_template("steps.html.jinja").render(steps=steps, plot=step_plot(series)))


def _points(steps: StepReport, arm: str) -> tuple[tuple[int, float, Interval | None], ...]:
    found = [(run.step, run.arms[arm]) for run in steps.runs if arm in run.arms]
    return tuple(
        (step, metrics.mean_reward, metrics.mean_reward_interval)
        for step, metrics in found
        if metrics.mean_reward is not None
    )


def _key(paths: Sequence[str], config: dict[str, Any]) -> str:
    """A name for the checkpoints of one training under these settings, whichever of them are there."""
    folder = Path(os.path.commonpath(paths))
    settings = {name: value for name, value in config.get("comparable", {}).items() if name not in _UNLIKE}
    text = json.dumps([str(folder), settings, config.get("tested")], sort_keys=True, default=str)
    return f"{_plain(folder.name)[:100] or 'checkpoints'}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")
