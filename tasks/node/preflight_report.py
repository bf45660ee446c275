"""Defines preflight.json, the results of all checks and the memory plan, and writes and reads it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, PreflightFailed
from tasks.files import publish_json
from tasks.node.check_result import CheckResult, Status
from tasks.node.memory_plan import MemoryPlan
from tasks.records import RunPaths
from tasks.storage.published import read_published, recorded_path

_RANK: dict[Status, int] = {"pass": 0, "skipped": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True, kw_only=True)
class PreflightReport:
    """The outcome of one preflight."""

    checks: tuple[CheckResult, ...]
    """The result of every check, in order."""
    plan: MemoryPlan | None = None
    """The memory plan; None when no model was given, or when the model's files are incomplete."""

    @property
    def worst(self) -> Status:
        """The worst outcome: fail, warn or pass. A skipped check does not count."""
        worst = max(self.checks, key=lambda check: _RANK[check.status], default=None)
        return "pass" if worst is None or worst.status == "skipped" else worst.status

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if check.status == "fail")

    def raise_if_failed(self) -> None:
        """Raise an error that lists each failed check with its remedy, when a check failed.

        It is a ConfigError when the user's input is at fault (the model, or settings that no node can run), else a
        PreflightFailed.
        """
        if not self.failed:
            return
        kind = ConfigError if any(check.is_input for check in self.failed) else PreflightFailed
        lines = "\n".join(f"  - {check}" for check in self.failed)
        raise kind(f"preflight failed, {len(self.failed)} of {len(self.checks)} checks:\n{lines}")

    def to_json(self) -> dict[str, Any]:
        """The content of preflight.json: the fields, and ``worst``."""
        return {"worst": self.worst, **asdict(self)}


def read_preflight(run_dir: Path) -> PreflightReport | None:
    """The preflight report of the run in ``run_dir``, or None when it has none. Raises DamagedFile."""
    return read_published(RunPaths(root=run_dir).preflight, PreflightReport)


def publish_preflight(report: PreflightReport, run_dir: Path) -> None:
    """Write preflight.json of the run in ``run_dir``."""
    publish_json(report.to_json(), RunPaths(root=run_dir).preflight, recorded_path)
