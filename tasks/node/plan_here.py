"""Plans a run on this node: under profile "auto" with the engines that suit the node's GPUs and the model.

On a node without GPUs, and where the installed vLLM cannot use them, "auto" is the profile cpu-demo. A run is planned
where it is collected, so that a deployment's "auto" means the worker's GPUs.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from profiles.load import SettingsError, load_profile, profile_names
from profiles.schema import AUTO, Profile
from tasks.errors import ConfigError
from tasks.node.auto_profile import MOST_SHARING, USUAL_MODEL_LEN, ChosenProfile, choose_profile
from tasks.node.cards import Card, cards_of
from tasks.node.gpu_checks import fits
from tasks.node.gpu_reading import GpuReading, NoDriverError, NvmlReader
from tasks.node.gpu_selection import gpus_needed, read_all_gpus, visible_gpus
from tasks.node.mps import find_mps
from tasks.node.nvml import PynvmlReader
from tasks.node.package_checks import torch_cuda_version
from tasks.node.prompt_check import find_prompts
from tasks.plan.engine_options import changed_profile
from tasks.plan.model_source import locate_model
from tasks.plan.run_config import CPU_PROFILE, RunConfig
from tasks.plan.run_plan import RunPlan, plan_run, with_profile
from tasks.plan.sampling import Sampling

CudaBuild = Callable[[], tuple[int, int] | None]
"""Returns the CUDA version that torch was built for; None for a build without CUDA."""

CORES_PER_ENGINE = 4
"""A replica, its engine core and its recorder each keep a core busy, and the node has other work."""
_NO_GPU = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES by which users say that they want no GPU."""
LENGTH_STEP = 256
"""A chosen max_model_len beyond the usual one is a multiple of this: the longest prompt is that of a sample."""


def plan_here(
    config: RunConfig, runs_dir: Path, *, reader: NvmlReader | None = None, cuda: CudaBuild = torch_cuda_version
) -> RunPlan:
    """Resolve ``config`` as ``plan_run`` does, with a profile for this node if it is "auto".

    Raises ConfigError, also when the model fits no engine on the GPUs, or PreflightFailed.
    """
    if config.profile != AUTO:
        return plan_run(config, runs_dir)
    most = config.sampling.max_tokens

    def choose(length: int, expected_length: int) -> ChosenProfile:
        return profile_here(
            *(AUTO, config.model),
            engine=config.engine,
            max_model_len=length,
            expected_length=expected_length,
            reader=reader,
            cuda=cuda,
        )

    length = max(USUAL_MODEL_LEN, most + 1)
    found = choose(length, length)
    if found.profile.expect.device == "cpu":
        # the command that makes the run again names it
        plan = plan_run(config.model_copy(update={"profile": found.profile.name}), runs_dir)
        return replace(plan, choices=(*plan.choices, *found.notes))
    plan = plan_run(config, runs_dir, found.profile)
    lengths = find_prompts(plan).lengths
    if lengths is None:
        return replace(plan, choices=(*plan.choices, *found.notes))
    needed = most + lengths.longest
    is_stated = "max_model_len" in (config.engine or {})
    if needed > USUAL_MODEL_LEN:
        length = -(-needed // LENGTH_STEP) * LENGTH_STEP
    found = choose(length, most + round(lengths.mean))
    plan = with_profile(plan, found.profile)
    if needed > USUAL_MODEL_LEN and not is_stated:
        told = f"max_model_len is {found.profile.engine.max_model_len:,}: prompts and max_tokens need {needed:,}"
        found = replace(found, notes=(*found.notes, told))
    return replace(plan, choices=(*plan.choices, *found.notes))


def profile_here(
    name: str,
    model: str | None,
    *,
    engine: Mapping[str, Any] | None = None,
    max_model_len: int = USUAL_MODEL_LEN,
    expected_length: int | None = None,
    reader: NvmlReader | None = None,
    cuda: CudaBuild = torch_cuda_version,
) -> ChosenProfile:
    """Return the profile ``name``, or the one that suits this node and ``model`` if that is "auto".

    ``engine`` are settings that the user gives. ``expected_length`` is that of a prompt and its completion, in tokens;
    without it, that of a run's usual max_tokens.
    Raises ConfigError, or PreflightFailed when the disk has no room for a model of the hub.
    """
    try:
        if name != AUTO:
            return ChosenProfile(profile=changed_profile(load_profile(name), engine))
        present = _present(reader or PynvmlReader())
        built = cuda() is not None
        gpus = [present[index] for index in visible_gpus([gpu.uuid for gpu in present])] if built else []
        if not gpus:
            on_cpu = changed_profile(load_profile(CPU_PROFILE), engine)
            return ChosenProfile(profile=on_cpu, notes=_why_not(present, built=built))
        cards = cards_of(gpus)
        if not cards:
            raise ConfigError(
                f"profile auto cannot tell the memory of GPUs: {_failing(gpus)}. nvidia-smi says more. Give a "
                f"--profile that is written for them, or {CPU_PROFILE}"
            )
        path = None if model is None else locate_model(model)[0]
        if expected_length is None:
            expected_length = Sampling().max_tokens
        found = choose_profile(
            cards,
            path,
            max_model_len=max_model_len,
            expected_length=expected_length,
            may_share=may_share(len(cards), len(os.sched_getaffinity(0))),
            stated=engine,
        )
        return ChosenProfile(
            profile=found.profile.model_copy(update={"baseline": _baseline(gpus)}),
            notes=(*found.notes, *_left_out(gpus, cards)),
        )
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def check_profile_of_nodes(config: RunConfig, plan: RunPlan) -> None:
    """Raise ConfigError when other nodes would get a CPU profile only because this one has no GPUs."""
    if config.profile == AUTO and plan.profile.expect.device == "cpu":
        raise ConfigError(
            "profile auto is chosen by the GPUs of the node that collects, and this one has none that can be used. "
            "Give the profile with which all nodes are to generate"
        )


def may_share(gpus: int, cores: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether engines may share the ``gpus``: with MPS, as was measured, and with ``cores`` for all of them."""
    return cores >= MOST_SHARING * gpus * CORES_PER_ENGINE and find_mps(environment).on


def _present(reader: NvmlReader) -> list[GpuReading]:
    try:
        return read_all_gpus(reader)
    except NoDriverError:
        return []


def _why_not(present: list[GpuReading], *, built: bool) -> tuple[str, ...]:
    """Return why none of the GPUs ``present`` is used. Raises ConfigError when CUDA_VISIBLE_DEVICES means another."""
    if not present:
        return ()
    if not built:
        return (
            f"profile auto: {CPU_PROFILE}, as the installed torch was built without CUDA. {len(present)} x "
            f"{present[0].name or 'GPU'} cannot be used: rollout-harvest[gpu] in a new environment, or in a "
            "checkout make setup-gpu, brings the other build",
        )
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if shown.strip() not in _NO_GPU:
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES is {shown!r}, and its first entry names none of this node's {len(present)} GPUs. "
            f"Give indices from 0 to {len(present) - 1} or UUIDs of whole GPUs (nvidia-smi -L), or --profile "
            f"{CPU_PROFILE}"
        )
    return (f"profile auto: {CPU_PROFILE}, as CUDA_VISIBLE_DEVICES is {shown!r} and hides all {len(present)} GPUs",)


def _left_out(gpus: list[GpuReading], cards: list[Card]) -> tuple[str, ...]:
    answering = {card.index for card in cards}
    silent = [gpu for gpu in gpus if gpu.index not in answering]
    if not silent:
        return ()
    rest = ",".join(str(card.index) for card in cards)
    return (f"not counted, as it does not answer: {_failing(silent)}. CUDA_VISIBLE_DEVICES={rest} leaves it out",)


def _failing(gpus: list[GpuReading]) -> str:
    return ", ".join(f"GPU {gpu.index} ({gpu.error or 'its memory is unknown'})" for gpu in gpus)


def _baseline(gpus: list[GpuReading]) -> str | None:
    """Return the baseline of the largest shipped profile that these GPUs suit."""
    shipped: list[Profile] = [load_profile(name) for name in profile_names()]
    on_gpus = [profile for profile in shipped if profile.expect.device == "cuda" and profile.baseline]
    suited = [profile for profile in on_gpus if fits(profile, gpus)]
    return max(suited, key=gpus_needed).baseline if suited else None
