"""Plans a run on this node: under profile "auto" with the engines that suit the node's GPUs and the model.

On a node without GPUs, and where the installed vLLM cannot use them, "auto" is the profile cpu-demo. A run is planned
where it is collected, so that a deployment's "auto" means the worker's GPUs.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from profiles.load import SettingsError, load_profile, profile_names
from profiles.schema import AUTO, Profile
from tasks.errors import ConfigError
from tasks.node.auto_profile import USUAL_MODEL_LEN, ChosenProfile, choose_profile
from tasks.node.cards import Card, cards_of
from tasks.node.gpu_checks import fits
from tasks.node.gpu_reading import GpuReading, NoDriverError, NvmlReader
from tasks.node.gpu_selection import gpus_needed, read_all_gpus, visible_gpus
from tasks.node.nvml import PynvmlReader
from tasks.node.package_checks import torch_cuda_version
from tasks.node.prompt_check import find_prompts
from tasks.plan.model_source import locate_model
from tasks.plan.run_config import CPU_PROFILE, RunConfig
from tasks.plan.run_plan import RunPlan, plan_run, with_profile

CudaBuild = Callable[[], tuple[int, int] | None]
"""Returns the CUDA version that torch was built for; None for a build without CUDA."""

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

    def choose(length: int) -> ChosenProfile:
        return profile_here(AUTO, config.model, max_model_len=length, reader=reader, cuda=cuda)

    found = choose(max(USUAL_MODEL_LEN, most + 1))
    if found.profile.expect.device == "cpu":
        # the command that makes the run again names it
        plan = plan_run(config.model_copy(update={"profile": found.profile.name}), runs_dir)
        return replace(plan, choices=found.notes)
    plan = plan_run(config, runs_dir, found.profile)
    lengths = find_prompts(plan).lengths
    needed = most + (0 if lengths is None else lengths.longest)
    if needed > USUAL_MODEL_LEN:
        longer = -(-needed // LENGTH_STEP) * LENGTH_STEP
        found = choose(longer)
        plan = with_profile(plan, found.profile)
        told = f"max_model_len is {found.profile.engine.max_model_len:,}: prompts and max_tokens need {needed:,}"
        found = replace(found, notes=(*found.notes, told))
    return replace(plan, choices=found.notes)


def profile_here(
    name: str,
    model: str | None,
    *,
    max_model_len: int = USUAL_MODEL_LEN,
    reader: NvmlReader | None = None,
    cuda: CudaBuild = torch_cuda_version,
) -> ChosenProfile:
    """Return the profile ``name``, or the one that suits this node and ``model`` if that is "auto".

    Raises ConfigError, or PreflightFailed when the disk has no room for a model of the hub.
    """
    try:
        if name != AUTO:
            return ChosenProfile(profile=load_profile(name))
        gpus = _visible(reader or PynvmlReader())
        cards = cards_of(gpus)
        if not cards or cuda() is None:
            return ChosenProfile(profile=load_profile(CPU_PROFILE), notes=_why_not(cards))
        path = None if model is None else locate_model(model)[0]
        found = choose_profile(cards, path, max_model_len=max_model_len)
        return replace(found, profile=found.profile.model_copy(update={"baseline": _baseline(gpus)}))
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def check_profile_of_nodes(config: RunConfig, plan: RunPlan) -> None:
    """Raise ConfigError when other nodes would get a CPU profile only because this one has no GPUs."""
    if config.profile == AUTO and plan.profile.expect.device == "cpu":
        raise ConfigError(
            "profile auto is chosen by the GPUs of the node that collects, and this one has none that can be used. "
            "Give the profile with which all nodes are to generate"
        )


def _visible(reader: NvmlReader) -> list[GpuReading]:
    try:
        present = read_all_gpus(reader)
    except NoDriverError:
        return []
    return [present[index] for index in visible_gpus([gpu.uuid for gpu in present])]


def _why_not(cards: list[Card]) -> tuple[str, ...]:
    if not cards:
        return ()
    return (
        f"profile auto: {CPU_PROFILE}, as the installed torch was built without CUDA. {len(cards)} x {cards[0].name} "
        "cannot be used: make setup-gpu installs the other build",
    )


def _baseline(gpus: list[GpuReading]) -> str | None:
    """Return the baseline of the largest shipped profile that these GPUs suit."""
    shipped: list[Profile] = [load_profile(name) for name in profile_names()]
    on_gpus = [profile for profile in shipped if profile.expect.device == "cuda" and profile.baseline]
    suited = [profile for profile in on_gpus if fits(profile, gpus)]
    return max(suited, key=gpus_needed).baseline if suited else None
