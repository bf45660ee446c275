"""Fixtures that several test modules share, and what holds for every test: its order, its time limit, its report."""

import os
from collections.abc import Iterator

import pytest

from tests.support.failure_report import log_section
from tests.support.left_behind import nothing_left_behind  # noqa: F401
from tests.support.node_workers import node_api  # noqa: F401
from tests.support.patience import HANG_SECONDS, SLOWNESS_VARIABLE, measure_slowness, scaled
from tests.support.prefect_server import prefect_api  # noqa: F401
from tests.support.s3_servers import any_bucket, bucket, ministack_server, moto_server, tls_bucket, tls_server  # noqa: F401

TEST_SECONDS = 4 * HANG_SECONDS
"""Longest time of one test on a quiet machine: for a hang in which the test waits for nothing by name."""

# several tests run at a time on two cores: whatever computes with threads must not spin while it waits
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# a process of a test that hangs is ended by a signal at which it prints the stacks of its threads
os.environ.setdefault("PYTHONFAULTHANDLER", "1")


def pytest_configure(config: pytest.Config) -> None:
    if SLOWNESS_VARIABLE not in os.environ:
        measure_slowness()


def pytest_report_header(config: pytest.Config) -> str:
    return f"machine: {scaled(1):.1f} times slower than the quiet one that limits are made for"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slow modules first, whose order is random otherwise, so that no process ends long after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(scaled(TEST_SECONDS)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and (section := log_section(item)):  # type: ignore[attr-defined]
        report.sections.append(section)  # type: ignore[attr-defined]
    return report
