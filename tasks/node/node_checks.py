"""Runs all checks of a node for a profile, a model and a destination. It loads no model."""

import math
from collections.abc import Callable
from pathlib import Path

from profiles.load import load_profile, profile_names
from profiles.schema import Profile
from tasks.errors import ConfigError, HarvestError
from tasks.node.check_result import CheckResult
from tasks.node.gpu_checks import fitting_profiles, gpu_checks
from tasks.node.gpu_reading import GpuReading, NoDriverError, NvmlReader
from tasks.node.gpu_selection import gpus_needed, smallest_gpu, used_gpus
from tasks.node.gpu_smoke import check_smoke
from tasks.node.gpu_xid_log import check_xids, read_xids
from tasks.node.host_checks import OutputSize, host_checks
from tasks.node.memory_budget import CPU_ENGINE_BYTES
from tasks.node.memory_plan import MemoryPlan, plan_memory
from tasks.node.nvml import PynvmlReader
from tasks.node.package_checks import package_checks, torch_cuda_version
from tasks.node.passed_on_memory import host_bytes
from tasks.node.preflight_report import PreflightReport
from tasks.node.prompt_check import check_prompt_sample
from tasks.node.prompt_sample import PromptSample
from tasks.plan.adapter_source import LoraSlots
from tasks.plan.model_files import check_model_files
from tasks.storage.filesystems import TransferSettings


def check_node(
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
    prompts: PromptSample | None = None,
    max_tokens: int | None = None,
    lora: LoraSlots | None = None,
) -> PreflightReport:
    """The results of all checks for ``profile``. Takes seconds, and raises no error when a check fails.

    ``arms``, ``samples``, ``prompts`` (those of the run, if it is known), ``max_tokens`` and ``lora`` are for the
    memory plan. ``smoke`` adds a real computation on the GPUs.
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
            lengths = None if prompts is None else prompts.lengths
            prompt = None if lengths is None else lengths.mean
            plan = _plan(
                profile, model_path, gpus, arms=arms, samples=samples, prompt=prompt, max_tokens=max_tokens, lora=lora
            )
            checks.append(check_memory_plan(plan))
    if prompts is not None:
        checks.append(check_prompt_sample(prompts))
    checks += host_checks(
        profile,
        runs_dir=runs_dir,
        host_bytes=_host_bytes(profile, plan),
        output=output,
    )
    if upload_url is not None:
        checks.append(_destination(upload_url, transfer))
    return PreflightReport(checks=tuple(checks), plan=plan)


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
    used = used_gpus(profile, present)
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
    prompt: float | None,
    max_tokens: int | None,
    lora: LoraSlots | None,
) -> MemoryPlan:
    smallest = smallest_gpu(gpus)
    return plan_memory(
        profile,
        path,
        arms=arms,
        samples=samples,
        expected_length=None if prompt is None or max_tokens is None else math.ceil(prompt + max_tokens),
        prompt_length=prompt,
        max_tokens=max_tokens,
        gpu_bytes=None if smallest is None else (smallest.memory_total or 0) - (smallest.memory_reserved or 0),
        gpu_name="" if smallest is None else smallest.name or "",
        lora=lora,
    )


def check_memory_plan(plan: MemoryPlan) -> CheckResult:
    """The check of ``plan``. It fails only when a problem is certain, and warns when it is an estimate."""
    name = "memory plan"
    if plan.problems:
        return CheckResult(name=name, status="fail", value="; ".join(plan.problems), is_input=True)
    if plan.doubts:
        return CheckResult(
            name=name,
            status="warn",
            value="; ".join(plan.doubts),
            remedy="The memory beside the weights is an estimate. Start the engine to see whether it fits",
        )
    if plan.kv_tokens is None:
        return CheckResult(name=name, status="skipped", value="; ".join(plan.unknown))
    value = f"KV cache of {plan.kv_tokens:,} tokens{' (estimate)' if plan.is_estimate else ''}"
    if plan.auto is not None:
        value += f"; auto batch: {plan.auto.reason}"
    value = "; ".join((value, *plan.not_counted))
    if plan.batch_fits:
        return CheckResult(name=name, status="pass", value=value, limit=f"{plan.running} sequences at once")
    return CheckResult(
        name=name,
        status="warn",
        value=f"{value}, {plan.sequences_at_expected} sequences of {plan.expected_length} tokens",
        limit=f"{plan.running} sequences at once",
        remedy="vLLM will preempt sequences and compute them again. Lower question_batch_size or max_model_len",
    )


def _host_bytes(profile: Profile, plan: MemoryPlan | None) -> int | None:
    """Host memory that the engines of a CPU profile take, in bytes; a GPU engine takes little beside what it offloads.

    None when it is not known, or too little to count.
    """
    offloaded = host_bytes(profile.engine)
    if profile.expect.device != "cpu":
        return profile.replicas * offloaded or None
    if plan is None or plan.weight_bytes is None:
        return None
    return profile.replicas * (plan.weight_bytes + (plan.kv_budget_bytes or 0) + CPU_ENGINE_BYTES + offloaded)
