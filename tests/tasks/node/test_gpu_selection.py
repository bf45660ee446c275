import pytest

from tasks.node.gpu_selection import visible_gpus

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
    ],
)
def test_visible_gpus_follow_cudas_rule(setting: str | None, expected: list[int]) -> None:
    environment = {} if setting is None else {"CUDA_VISIBLE_DEVICES": setting}
    assert visible_gpus(UUIDS, environment) == expected
