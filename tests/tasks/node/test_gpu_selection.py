import pytest

from tasks.errors import ConfigError
from tasks.node.gpu_selection import first_visible_gpu, visible_gpus
from tests.support.fake_nvml import FakeReader, healthy

UUIDS = ["GPU-aaaa-1", "GPU-bbbb-2", "GPU-cccc-3", None]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("0,9,1", [0]),  # the first entry that names no GPU ends the list, as in CUDA
        ("-1", []),
        ("GPU-bbbb,GPU-aaaa-1", [1, 0]),
        ("GPU-", []),  # a prefix of several GPUs names none
        ("MIG-GPU-aaaa-1/1/0", []),
        ("²", []),  # a digit, but no number
        ("1,7,1", [1]),
    ],
)
def test_visible_gpus_follow_cudas_rule(setting: str | None, expected: list[int]) -> None:
    environment = {} if setting is None else {"CUDA_VISIBLE_DEVICES": setting}
    assert visible_gpus(UUIDS, environment) == expected


@pytest.mark.parametrize("setting", ["0,0", "1, 0,1", "0,GPU-aaaa", "GPU-aaaa,GPU-aaaa-1"])
def test_a_gpu_named_twice_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"names GPU [01] twice\. Name each GPU once"):
        visible_gpus(UUIDS, {"CUDA_VISIBLE_DEVICES": setting})


@pytest.mark.parametrize(
    ("reader", "setting", "expected"),
    [
        (FakeReader(no_driver="none"), None, None),
        (FakeReader(), None, None),
        (FakeReader(gpus=[healthy(0), healthy(1)]), None, "0"),
        (FakeReader(gpus=[healthy(0), healthy(1)]), " 1 ,0", "1"),
        (FakeReader(gpus=[healthy(0), healthy(1)]), "GPU-00000001", "GPU-00000001"),
        (FakeReader(gpus=[healthy(0), healthy(1)]), "", None),
        (FakeReader(gpus=[healthy(0), healthy(1)]), "7,0", None),
    ],
)
def test_the_first_visible_gpu(reader: FakeReader, setting: str | None, expected: str | None) -> None:
    environment = {} if setting is None else {"CUDA_VISIBLE_DEVICES": setting}
    assert first_visible_gpu(reader, environment) == expected
