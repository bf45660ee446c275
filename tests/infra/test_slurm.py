"""The SLURM script with a stand-in for ``srun``, which starts what it is given: with the real Ray, and with none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.test_install import write_program
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import ROOT, environment
from tests.support.own_machine import may_own_machine, on_own_machine  # noqa: F401
from tests.support.patience import read_to_end
from tests.support.prefect_server import NewHome

SCRIPT = ROOT / "infra" / "slurm" / "collect.sh"
_SRUN = 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"'


def start(directory: Path, *options: str, on_machine: bool = False) -> "subprocess.Popen[str]":
    """Start the script in ``directory`` as a job of two nodes, of which one comes."""
    write_program(directory / "bin" / "srun", _SRUN)
    command = ["bash", str(SCRIPT), *options]
    return subprocess.Popen(
        on_own_machine(*command) if on_machine else command,
        cwd=directory,
        env=environment(
            PATH=f"{directory / 'bin'}:{os.environ['PATH']}",
            SLURM_JOB_NUM_NODES="2",
            RAY_OPTIONS="--num-cpus=1 --include-dashboard=false --object-store-memory=83886080",
            HARVEST_HOME=str(directory / "home"),
            PREFECT_HOME=str(directory / "prefect"),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("may_own_machine")
def test_a_job_collects_on_a_ray_cluster_of_its_own(tmp_path: Path, new_prefect_home: NewHome) -> None:
    pytest.importorskip("ray")
    new_prefect_home(tmp_path / "prefect")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    profile = write_fake_profile(tmp_path)
    process = start(tmp_path, f"--profile={profile}", "--questions=4", "--max-tokens=8", "--json", on_machine=True)
    stdout, stderr = read_to_end(process, "the end of the job")
    assert process.returncode == 0, stdout + stderr
    report = json.loads(stdout[stdout.index("{\n") : stdout.rindex("}") + 1])
    assert report["num_rollouts"] == 32
    assert [node["rollouts"] for node in report["generation"]["sessions"][-1]["nodes"]] == [32]


@pytest.mark.parametrize(
    ("ray", "code"),
    [
        ('while [ "$1" != -- ]; do shift; done; shift; "$@"', 3),
        # what ray symmetric-run does when Ray does not start
        ("exit 0", 1),
        ("kill $$", 1),
    ],
)
def test_the_exit_code_is_that_of_the_run(tmp_path: Path, ray: str, code: int) -> None:
    programs = tmp_path / ".venv" / "bin"
    write_program(programs / "ray", f'echo "ray $*" >> calls; echo "$RAY_AUTH_TOKEN" >> tokens; {ray}')
    write_program(programs / "harvest", 'echo "harvest $*" >> calls; exit 3')
    write_program(programs / "python", f'exec "{sys.executable}" "$@"')
    process = start(tmp_path, "--model", "a model")
    _, stderr = read_to_end(process, "the end of the job")
    assert process.returncode == code
    assert ("did not start" in stderr) == (code == 1)
    calls = (tmp_path / "calls").read_text()
    assert ("\nharvest run --nodes=2 --ray=auto --model a model\n" in calls) == (code == 3)
    [token] = (tmp_path / "tokens").read_text().split()
    assert len(token) == 64
    assert token not in calls


def test_bash_and_shellcheck_find_nothing() -> None:
    checkers = [["bash", "-n"], *([["shellcheck"]] if shutil.which("shellcheck") else [])]
    for checker in checkers:
        checked = subprocess.run([*checker, str(SCRIPT)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
