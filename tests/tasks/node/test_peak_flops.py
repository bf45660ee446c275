import pytest

from tasks.node.peak_flops import peak_flops


@pytest.mark.parametrize(
    ("name", "dtype", "fp8", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", False, 312.0),
        ("NVIDIA A100 80GB PCIe", "float16", False, 312.0),
        ("NVIDIA A100-PCIE-40GB", "float32", False, 19.5),
        # without FP8 in its tensor cores: weights are unpacked to 16 bits
        ("NVIDIA A100-SXM4-40GB", "bfloat16", True, 312.0),
        ("NVIDIA A100-SXM-64GB", "bfloat16", False, 312.0),
        ("NVIDIA A30", "bfloat16", False, 165.0),
        ("NVIDIA A40", "bfloat16", False, 149.7),
        ("NVIDIA H100 80GB HBM3", "bfloat16", False, 989.4),
        ("NVIDIA H100 80GB HBM3", "auto", False, 989.4),
        ("NVIDIA H100 80GB HBM3", "bfloat16", True, 1978.9),
        ("NVIDIA H100 PCIe", "bfloat16", False, 756.0),
        ("NVIDIA H100 NVL", "bfloat16", False, 835.5),
        ("NVIDIA H200", "bfloat16", False, 989.4),
        ("NVIDIA H200", "float32", False, 66.9),
        ("NVIDIA H200 NVL", "bfloat16", False, 835.5),
        ("NVIDIA GH200 480GB", "bfloat16", False, 989.4),
        ("NVIDIA L4", "bfloat16", False, 121.0),
        ("NVIDIA L40", "bfloat16", False, 181.0),
        ("NVIDIA L40S", "bfloat16", False, 362.0),
        ("NVIDIA A10", "bfloat16", False, 125.0),
        ("NVIDIA B200", "bfloat16", False, 2250.0),
        ("NVIDIA B200", "bfloat16", True, 4500.0),
        ("NVIDIA B300", "bfloat16", False, 2250.0),
        ("NVIDIA GB200", "bfloat16", False, 2500.0),
        # other cards, whose names begin alike
        ("NVIDIA A10G", "bfloat16", False, None),
        ("NVIDIA A1000", "bfloat16", False, None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "bfloat16", False, None),
        ("Tesla T4", "bfloat16", False, None),
        ("", "bfloat16", False, None),
    ],
)
def test_a_known_card_has_its_dense_peak(name: str, dtype: str, fp8: bool, teraflops: float | None) -> None:
    assert peak_flops(name, dtype, fp8=fp8) == (None if teraflops is None else pytest.approx(teraflops * 1e12))
