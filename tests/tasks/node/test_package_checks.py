import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from profiles.schema import Profile

SCRIPT = """
import sys
from profiles.schema import Profile
from tasks.node.package_checks import package_checks, torch_cuda_version
profile = Profile.model_validate_json(sys.argv[1])
print(torch_cuda_version(), *(f"{check.name}={check.status}" for check in package_checks(profile)), sep=";")
assert not {"torch", "vllm"} & set(sys.modules), "the check imported torch or vllm"
"""


def profile(device: str, **more: Any) -> Profile:
    return Profile.model_validate({"name": "test", "expect": {"device": device}, **more})


def look(folder: Path, settings: Profile) -> str:
    """The output of SCRIPT in a child process that imports from ``folder`` first."""
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, settings.model_dump_json()],
        env={"PYTHONPATH": f"{folder}:{root}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def install(folder: Path, *, cuda: str, vllm: str) -> None:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("")
    (folder / "torch" / "version.py").write_text(f"from typing import Optional\ncuda: Optional[str] = {cuda}\n")
    information = folder / f"vllm-{vllm}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {vllm}\n")


@pytest.mark.parametrize(
    ("cuda", "vllm", "settings", "said"),
    [
        ("'12.8'", "0.32.1", profile("cuda"), "(12, 8);vLLM version=pass;torch build=pass"),
        ("None", "0.32.0", profile("cuda"), "None;vLLM version=pass;torch build=fail"),
        ("'12.8'", "0.33.0", profile("cuda"), "(12, 8);vLLM version=warn;torch build=pass"),
        ("None", "0.32.0", profile("cpu"), "None;vLLM version=pass"),
        ("None", "0.32.0", profile("cuda", engine={"backend": "mine:Engine"}), "None;vLLM version=skipped"),
    ],
)
def test_versions_are_checked_without_importing(
    tmp_path: Path, cuda: str, vllm: str, settings: Profile, said: str
) -> None:
    install(tmp_path, cuda=cuda, vllm=vllm)
    assert look(tmp_path, settings) == said
