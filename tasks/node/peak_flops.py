"""The arithmetic that a GPU can do at most, by its NVML name.

Dense figures of NVIDIA's data sheets, in TFLOP/s at the boost clock: where a sheet gives a figure "with sparsity", half
of it. Sources: the data sheets "A100 Tensor Core GPU", "A10", "A30", "A40", "H100 Tensor Core GPU" (SXM, PCIe, NVL),
"H200 Tensor Core GPU" (SXM, NVL), "GH200", "L4", "L40", "L40S", "HGX platform" (B200, B300; an 8th of it),
and "GB200 NVL72" (a 72nd of the rack). A card that is not listed has no figure, nor has a MIG slice of one.
"""

import re

_PEAKS: tuple[tuple[str, float, float, float | None], ...] = (
    # NVML name, bfloat16 and float16 on tensor cores, float32 on CUDA cores, FP8 on tensor cores that have it
    (r"A100", 312.0, 19.5, None),
    (r"A30", 165.0, 10.3, None),
    (r"A40", 149.7, 37.4, None),
    (r"A10", 125.0, 31.2, None),
    (r"H100 PCIe", 756.0, 51.0, 1513.0),
    (r"H100 NVL", 835.5, 60.0, 1671.0),
    (r"H100 80GB HBM3", 989.4, 66.9, 1978.9),
    (r"H200 NVL", 835.5, 60.0, 1671.0),
    (r"H200", 989.4, 66.9, 1978.9),
    (r"GH200 \S+", 989.4, 66.9, 1978.9),
    (r"L4", 121.0, 30.3, 242.5),
    (r"L40", 181.0, 90.5, 362.0),
    (r"L40S", 362.0, 91.6, 733.0),
    (r"B200", 2250.0, 75.0, 4500.0),
    (r"B300", 2250.0, 75.0, 4500.0),
    (r"GB200", 2500.0, 80.0, 5000.0),
)
_FORM = r"(?:[- ](?:SXM\d?|PCIE|PCIe|\d+GB))*"
"""What NVML puts behind a name: form factor and memory, as in "NVIDIA A100-SXM4-80GB"."""


def peak_flops(gpu_name: str, dtype: str, *, fp8: bool = False) -> float | None:
    """Return the dense peak in FLOP/s of one GPU, in a profile's ``dtype`` or in FP8; None when it is unknown.

    All dtypes but float32 have 16 bits; "auto" takes none with more. Without FP8 in its tensor cores a card multiplies
    FP8 weights in 16 bits: vLLM's Marlin kernels unpack them.
    """
    for name, half, single, eight in _PEAKS:
        if re.fullmatch(rf"(?:NVIDIA )?{name}{_FORM}", gpu_name):
            if fp8:
                return (half if eight is None else eight) * 1e12
            return (single if dtype == "float32" else half) * 1e12
    return None
