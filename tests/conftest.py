"""Fixtures that several test modules share, and what holds for every test: its order, its time limit, its report."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tasks.gc_freeze import gc_frozen
from tasks.node.engine_caches import CACHE_VARIABLE, cache_root
from tasks.time_limits import FACTOR_VARIABLE
from tests.support.failure_report import log_section
from tests.support.harvest_command import tell  # noqa: F401
from tests.support.left_behind import nothing_left_behind  # noqa: F401
from tests.support.patience import HANG_SECONDS, SLOWNESS_VARIABLE, measure_slowness, scaled, slowness
from tests.support.prefect_server import new_prefect_home, prefect_api  # noqa: F401
from tests.support.ray_nodes import ray_head, ray_nodes  # noqa: F401
from tests.support.s3_servers import any_bucket, bucket, ministack_server, moto_server, tls_bucket, tls_server  # noqa: F401
from tests.support.small_disk import small_disk  # noqa: F401

WORKERS = "tests with Prefect workers"
WORKER_MODULES = {"tests/e2e/test_prefect_deployments.py"}
ENGINES = "tests with engines of one process, or with the run of one"
ENGINE_MODULES = {
    "tests/e2e/test_equivalence_engine.py",
    "tests/e2e/test_run.py",
    "tests/tasks/comparison/test_mismatch.py",
    "tests/tasks/generation/test_engine_outputs.py",
    "tests/tasks/generation/test_engine_sampling.py",
    "tests/tasks/generation/test_lora_engine.py",
    "tests/tasks/generation/test_weight_reload.py",
}
WHOLE_MODULES = {"tests/faults/test_damaged_files.py", "tests/faults/test_random_damage.py"}
"""Modules of faults whose tests share finished runs, each of which would be made once per process."""
LONGEST = {
    "tests/faults/test_engine_deaths.py",
    "tests/faults/test_out_of_memory.py",
    "tests/faults/test_random_kills.py",
}
"""Modules with parts of a minute and more that one process must run."""
GIVEN_FACTOR = os.environ.get(FACTOR_VARIABLE)
TEST_SECONDS = 4 * HANG_SECONDS
"""Longest time of one test on a quiet machine: for a hang in which the test waits for nothing by name."""

MODEL_CLASSES = "modelinfos"
"""In vLLM's cache: what it knows of the classes of models, by the digest of their source."""
RAY_FOLDER_VARIABLE = "RAY_TMPDIR"
SERVERS = {"prefect_api", "moto_server", "ministack_server", "tls_server", "any_bucket", "ray_nodes"}
"""Fixtures that start a server, so that a test that uses one is ``slow``."""

# several tests run at a time on two cores: whatever computes with threads must not spin while it waits
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# a process of a test that hangs is ended by a signal at which it prints the stacks of its threads
os.environ.setdefault("PYTHONFAULTHANDLER", "1")
# an example that takes longer than 0.2 s is a busy machine's
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    # a shell has what it starts in the background ignore Ctrl-C, and every process of a test would too
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if SLOWNESS_VARIABLE not in os.environ:
        measure_slowness()
    if CACHE_VARIABLE not in os.environ:
        # engines of tests, fake ones too, record that they filled a cache: not in the user's
        caches = tempfile.TemporaryDirectory(prefix="harvest-caches-", ignore_cleanup_errors=True)
        # vLLM looks at the class of a model in a process that imports it all, which takes as long as an engine
        if (known := cache_root(os.environ) / MODEL_CLASSES).is_dir():
            shutil.copytree(known, Path(caches.name) / "vllm" / MODEL_CLASSES)
        os.environ[CACHE_VARIABLE] = caches.name
        config.add_cleanup(caches.cleanup)
    if RAY_FOLDER_VARIABLE not in os.environ:
        # short, as Ray's sockets are in it; what Ray writes there by itself outlives it
        folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
        os.environ[RAY_FOLDER_VARIABLE] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Iterator[object]:
    # what is imported stays to the end, so that Python's collector need not look at it again and again
    with gc_frozen():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # the product, in this process and its children, must not take a slow machine for a failure; load comes and goes
    os.environ[FACTOR_VARIABLE] = GIVEN_FACTOR or f"{scaled(1):.2f}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    seed = config.getoption("randomly_seed", default=None)
    terminalreporter.write_line(
        f"order: --randomly-seed={seed}; the machine was {slowness():.1f} times slower than a quiet one"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests one process runs, in which order, and how long each may take.

    The order is random; but what takes long comes first, so that no process ends long after the others.
    """
    for item in items:
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(scaled(TEST_SECONDS)))
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, bool, bool]:
    """Put slow tests before quick ones, and first of all the longest parts that one process must run."""
    module = item.nodeid.partition("::")[0]
    together = group_of(item.nodeid) in (WORKERS, ENGINES)
    return not item.get_closest_marker("slow"), not together, module not in LONGEST


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "GroupScheduling":
    return GroupScheduling(config, log)


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process one group of tests after the other.

    The groups of xdist 3.8 itself do nothing: it sets an attribute of tests that pytest 9.2 does not read.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Name what one process runs as a whole: a module, whose tests may share fixtures, or a single test of a fault.

    Tests with Prefect workers are one group, as every worker polls the same pool; so are those with engines that one
    process forks, as it must import vLLM, and those that share ``demo_run``.
    """
    module = nodeid.partition("::")[0]
    if module in WORKER_MODULES | ENGINE_MODULES:
        return WORKERS if module in WORKER_MODULES else ENGINES
    return nodeid if module.startswith("tests/faults/") and module not in WHOLE_MODULES else module


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and (section := log_section(item)):  # type: ignore[attr-defined]
        report.sections.append(section)  # type: ignore[attr-defined]
    return report
