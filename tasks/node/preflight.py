"""The gate before an engine: can this node, with this profile and model, do the job? Nothing is loaded."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.load import load_profile, profile_names
from profiles.schema import Profile
from tasks.errors import ConfigError, HarvestError, PreflightFailed
from tasks.files import publish_json
from tasks.node.check_result import CheckResult, Status
from tasks.node.gpu_checks import fits, gpu_checks, gpus_needed, usable_gpus
from tasks.node.gpu_lock import gpus_of
from tasks.node.gpu_memory_release import wait_for_free_memory
from tasks.node.gpu_reading import GpuReading, NoDriverError, NvmlReader
from tasks.node.gpu_smoke_test import check_smoke
from tasks.node.gpu_xid_log import check_xids, read_xids
from tasks.node.host_checks import OutputSize, node_checks
from tasks.node.memory_plan import CPU_ENGINE_BYTES, MemoryPlan, plan_memory
from tasks.node.nvml import PynvmlReader
from tasks.node.package_checks import package_checks, torch_cuda_version
from tasks.node.prompt_lengths import estimate_prompts
from tasks.plan.model_files import check_model_files
from tasks.plan.run_plan import RunPlan
from tasks.records import shard_indices
from tasks.storage.filesystems import TransferSettings

_RANK: dict[Status, int] = {"pass": 0, "skipped": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True, kw_only=True)
class PreflightReport:
    """Every check's outcome, in the order of the checks, and the memory plan where the model is known."""

    checks: tuple[CheckResult, ...]
    plan: MemoryPlan | None = None

    @property
    def worst(self) -> Status:
        """The worst outcome: fail, warn or pass. A skipped check makes a report neither better nor worse."""
        worst = max(self.checks, key=lambda check: _RANK[check.status], default=None)
        return "pass" if worst is None or worst.status == "skipped" else worst.status

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if check.status == "fail")

    def raise_if_failed(self) -> None:
        """Raise for the failed checks, listing each with its remedy.

        ConfigError when what the user gave is at fault (the model, or settings that no node can run), else
        PreflightFailed.
        """
        if not self.failed:
            return
        kind = ConfigError if any(check.is_input for check in self.failed) else PreflightFailed
        lines = "\n".join(f"  - {check}" for check in self.failed)
        raise kind(f"preflight failed, {len(self.failed)} of {len(self.checks)} checks:\n{lines}")

    def to_json(self) -> dict[str, Any]:
        """Plain values for preflight.json."""
        return {
            "worst": self.worst,
            "checks": [check.to_json() for check in self.checks],
            "plan": None if self.plan is None else self.plan.to_json(),
        }


def run_preflight(
    profile: Profile,
    *,
    model_path: Path | None,
    runs_dir: Path,
    output: OutputSize | None = None,
    upload_url: str | None = None,
    transfer: TransferSettings | None = None,
    reader: NvmlReader | None = None,
    smoke: bool = False,
    arms: int = 1,
    samples: int = 1,
    expected_length: int | None = None,
) -> PreflightReport:
    """Check the node, the model's files and the destination for ``profile``; takes seconds and never raises for a
    failed check.

    ``arms``, ``samples`` and ``expected_length`` (tokens of a mean prompt plus completion) are for the memory plan.
    ``smoke`` adds a real computation on the GPUs.
    """
    checks = package_checks(profile)
    gpus: list[GpuReading] = []
    if profile.expect.device == "cuda":
        found, gpus = _gpu_section(profile, reader or PynvmlReader(), runs_dir, smoke=smoke)
        checks += found
    plan = None
    if model_path is not None:
        checks.append(_model_files(profile, model_path))
        if checks[-1].status == "pass":
            plan = _plan(profile, model_path, gpus, arms=arms, samples=samples, expected_length=expected_length)
            checks.append(check_memory_plan(plan))
    checks += node_checks(
        profile,
        runs_dir=runs_dir,
        host_bytes=_host_bytes(profile, plan),
        output=output,
    )
    if upload_url is not None:
        checks.append(_destination(upload_url, transfer))
    return PreflightReport(checks=tuple(checks), plan=plan)


def fitting_profiles(shipped: Iterable[Profile], gpus: list[GpuReading]) -> list[str]:
    """Names of the shipped profiles that fit a node with these GPUs; CPU profiles only where no GPU profile fits."""
    everything = list(shipped)
    baselines = {profile.baseline for profile in everything}
    fitting = [profile for profile in everything if profile.name not in baselines and fits(profile, gpus)]
    on_gpus = [profile.name for profile in fitting if profile.expect.device == "cuda"]
    return on_gpus or [profile.name for profile in fitting]


def _gpu_section(
    profile: Profile, reader: NvmlReader, runs_dir: Path, *, smoke: bool
) -> tuple[list[CheckResult], list[GpuReading]]:
    try:
        driver = reader.driver()
    except NoDriverError as error:
        driver_check = CheckResult(
            name="NVIDIA driver",
            status="fail",
            value=f"no NVIDIA driver was found ({error})",
            limit=f"{gpus_needed(profile)} GPUs for profile {profile.name}",
            remedy=f"Install the driver, or {_suggest([])}",
        )
        return [driver_check], []
    present = [reader.gpu(index) for index in range(driver.gpu_count)]
    used = usable_gpus(profile, present)
    checks = gpu_checks(
        profile,
        reader,
        driver,
        present,
        runs_dir=runs_dir,
        torch_cuda=torch_cuda_version(),
        fitting=_suggest(present).capitalize(),
    )
    others = [gpu.pci_bus_id for gpu in present if gpu not in used and gpu.pci_bus_id]
    checks.append(check_xids(read_xids(), [gpu.pci_bus_id for gpu in used], others))
    if smoke:
        checks.append(_smoke(used, healthy=not any(check.status == "fail" for check in checks)))
    return checks, used


def _smoke(used: list[GpuReading], *, healthy: bool) -> CheckResult:
    if not healthy:
        return CheckResult(name="smoke test", status="skipped", value="an earlier check failed")
    return check_smoke([gpu.index for gpu in used])


def _suggest(gpus: list[GpuReading]) -> str:
    names = fitting_profiles((load_profile(name) for name in profile_names()), gpus)
    return f"use a profile that fits this node: {', '.join(names)}"


def _model_files(profile: Profile, path: Path) -> CheckResult:
    return _guarded(
        "model files",
        lambda: check_model_files(path, load_format=profile.engine.load_format),
        passed=f"{path} is complete",
    )


def _destination(url: str, transfer: TransferSettings | None) -> CheckResult:
    from tasks.storage.destination import check_destination

    return _guarded("destination", lambda: check_destination(url, transfer), passed=f"{url} takes writes and deletes")


def _guarded(name: str, check: Callable[[], None], *, passed: str) -> CheckResult:
    try:
        check()
    except (HarvestError, OSError) as error:
        return CheckResult(name=name, status="fail", value=str(error), is_input=isinstance(error, ConfigError))
    return CheckResult(name=name, status="pass", value=passed)


def _plan(
    profile: Profile,
    path: Path,
    gpus: list[GpuReading],
    *,
    arms: int,
    samples: int,
    expected_length: int | None,
) -> MemoryPlan:
    smallest = min(
        (gpu for gpu in gpus if gpu.memory_total is not None), key=lambda gpu: gpu.memory_total or 0, default=None
    )
    return plan_memory(
        profile,
        path,
        arms=arms,
        samples=samples,
        expected_length=expected_length,
        gpu_bytes=None if smallest is None else (smallest.memory_total or 0) - (smallest.memory_reserved or 0),
        gpu_name="" if smallest is None else smallest.name or "",
    )


def check_memory_plan(plan: MemoryPlan) -> CheckResult:
    """What ``plan`` means for a run: only what is certain fails, an estimate warns."""
    name = "memory plan"
    if plan.problems:
        return CheckResult(name=name, status="fail", value="; ".join(plan.problems), is_input=True)
    if plan.doubts:
        return CheckResult(
            name=name,
            status="warn",
            value="; ".join(plan.doubts),
            remedy="By an estimate of what the engine takes beside the weights: its start will tell",
        )
    if plan.kv_tokens is None:
        return CheckResult(name=name, status="skipped", value="; ".join(plan.unknown))
    value = f"KV cache of {plan.kv_tokens:,} tokens{' (estimate)' if plan.is_estimate else ''}"
    if plan.batch_fits:
        return CheckResult(name=name, status="pass", value=value, limit=f"{plan.running} sequences at once")
    return CheckResult(
        name=name,
        status="warn",
        value=f"{value}, {plan.sequences_at_expected} sequences of {plan.expected_length} tokens",
        limit=f"{plan.running} sequences at once",
        remedy="Sequences will be preempted and computed again: lower question_batch_size or max_model_len",
    )


def _host_bytes(profile: Profile, plan: MemoryPlan | None) -> int | None:
    """Host memory that the engines of a CPU profile will take; a GPU engine's own is small and not counted."""
    if profile.expect.device != "cpu" or plan is None or plan.weight_bytes is None:
        return None
    return profile.replicas * (plan.weight_bytes + (plan.kv_budget_bytes or 0) + CPU_ENGINE_BYTES)


# MERGED from @run_preflight: Preflight for a planned run: the checks, on disk and as a gate.
BYTES_PER_TOKEN = 12
"""A stored completion token: its id, its logprob and its text, before compression."""

USUAL_COMPLETION = 0.5
"""Expected length of a completion as a share of max_tokens: the true one shows only while generating, and few runs
whose answers are not mostly cut off exceed this."""


def preflight_run(
    plan: RunPlan, upload_url: str | None, transfer: TransferSettings | None = None, *, reader: NvmlReader | None = None
) -> PreflightReport:
    """Check the node for ``plan``, publish preflight.json, and raise PreflightFailed when a check failed.

    Raises ConfigError when what the user gave is at fault.
    """
    # the engines of a killed run end with it, but the driver frees their memory a moment later
    wait_for_free_memory(gpus_of(plan), reader=reader)
    prompts = estimate_prompts(plan)
    report = run_preflight(
        plan.profile,
        model_path=plan.model.path,
        runs_dir=plan.paths.root.parent,
        output=output_size(plan),
        upload_url=upload_url,
        transfer=transfer,
        reader=reader,
        arms=len(plan.arms.arms),
        samples=plan.config.sampling.samples_per_arm,
        expected_length=None if prompts is None else math.ceil(prompts.mean + plan.config.sampling.max_tokens),
    )
    publish_json(report.to_json(), plan.paths.preflight)
    report.raise_if_failed()
    return report


def output_size(plan: RunPlan) -> OutputSize:
    """What the run's unfinished shards will take on disk, in bytes."""
    finished = len(shard_indices(plan.paths.root / "rollouts"))
    questions = min(plan.num_questions, max(0, plan.num_shards - finished) * plan.shard_size)
    sampling = plan.config.sampling
    tokens = questions * plan.rollouts_per_question * sampling.max_tokens * (1 + 2 * sampling.top_logprobs)
    most = tokens * BYTES_PER_TOKEN
    return OutputSize(expected=int(most * USUAL_COMPLETION), most=most)
