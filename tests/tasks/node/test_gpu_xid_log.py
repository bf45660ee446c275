from pathlib import Path

import pytest

from tasks.node.gpu_xid_log import FATAL, RECENT_S, SUSPECT, check_xids, read_xids

BUS = ["00000000:3B:00.0"]
UPTIME = 200_000.0


def kmsg(*records: tuple[float, str]) -> str:
    """Lines as /dev/kmsg gives them: priority, sequence, microseconds since boot, flags; message."""
    return "".join(f"4,{n},{int(at * 1e6)},-;{message}\n" for n, (at, message) in enumerate(records))


def xid(code: int, bus: str = "0000:3b:00") -> str:
    return f"NVRM: Xid (PCI:{bus}): {code}, pid='<unknown>', name=<unknown>, text"


@pytest.mark.parametrize(
    ("code", "status"),
    [*((code, "fail") for code in (48, 62, 64, 74, 79, 95, 119, 120)), *((code, "warn") for code in (13, 31, 63, 94))],
)
def test_listed_codes(tmp_path: Path, code: int, status: str) -> None:
    (tmp_path / "kmsg").write_text(kmsg((UPTIME - 60, "usb 1-1: new device"), (UPTIME - 50, xid(code))))
    result = check_xids(read_xids(tmp_path / "kmsg", uptime_s=UPTIME), BUS)
    assert result.status == status
    assert result.value.startswith(f"{code} ")
    assert result.remedy


@pytest.mark.parametrize(
    ("records", "status"),
    [
        ((), "pass"),
        (((UPTIME - 50, xid(43)),), "pass"),
        (((UPTIME - RECENT_S - 1, xid(79)),), "pass"),
        (((UPTIME - 50, xid(79, "0000:af:00")),), "pass"),
        (((UPTIME - 50, xid(31)), (UPTIME - 40, xid(79, "0000:3B:00.0"))), "fail"),
    ],
)
def test_only_recent_reports_of_our_gpus_count(
    tmp_path: Path, records: tuple[tuple[float, str], ...], status: str
) -> None:
    (tmp_path / "kmsg").write_text(kmsg(*records))
    assert check_xids(read_xids(tmp_path / "kmsg", uptime_s=UPTIME), BUS).status == status


@pytest.mark.parametrize(
    ("bus", "status"),
    [
        ("0000:3b:00", "fail"),  # a GPU that answers and that the run uses
        ("0000:5d:00", "fail"),  # no GPU that answers, so the lost GPU
        ("0000:af:00", "pass"),  # a GPU that another run uses
    ],
)
def test_a_lost_gpu_without_a_bus_id_is_found_by_its_report(tmp_path: Path, bus: str, status: str) -> None:
    (tmp_path / "kmsg").write_text(kmsg((UPTIME - 50, xid(79, bus))))
    result = check_xids(read_xids(tmp_path / "kmsg", uptime_s=UPTIME), [*BUS, None], ["00000000:AF:00.0"])
    assert result.status == status


def test_unreadable_log_is_skipped(tmp_path: Path) -> None:
    assert read_xids(tmp_path / "absent") is None
    assert check_xids(None, BUS).status == "skipped"


def test_no_code_is_both_fatal_and_suspect() -> None:
    assert not FATAL.keys() & SUSPECT.keys()
