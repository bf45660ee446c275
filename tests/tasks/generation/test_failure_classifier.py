"""Why an engine failed: messages of vLLM 0.32, PyTorch and the system, and the order in which they count."""

from pathlib import Path

import pytest

from tasks.errors import EngineCrashed, EngineError, EngineStartError, OutOfMemory, Phase
from tasks.generation.failure_classifier import classify_exit, classify_report
from tasks.node.host_memory import count_oom_kills

CORE = "(EngineCore pid=4242) ERROR 11-23 15:51:40 [core.py:1461] "
CORE_FAILED = f"{CORE}EngineCore encountered a fatal error.\n"
LOADED = "(EngineCore pid=4242) INFO 11-23 15:51:39 [default_loader.py:501] Loading weights took 0.02 seconds\n"
HIDDEN = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
UTILIZATION = (
    "ValueError: Free memory on device cuda:0 (12.1/139.8 GiB) on startup is less than desired GPU memory utilization "
    "(0.9, 125.8 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
CPU_KV = (
    "ValueError: Available memory on node 0 (13.59/23.47 GiB) on kv cache allocation is less than requested memory for "
    "kv (4096.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other "
    "processes."
)
NO_BLOCKS = (
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing "
    "the engine."
)
MODEL_LEN = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (9.31 GiB). Based on the available memory, the estimated "
    "maximum model length is 76256."
)
CUDA = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.81 GiB "
    "of which 12.00 MiB is free."
)
SAMPLER = (
    "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering "
    "`max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
)
CPU_ALLOCATOR = (
    "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)"
)
TRACEBACK = """Traceback (most recent call last):
  File "worker.py", line 1, in load
    raise torch.OutOfMemoryError("x")
"""
REFUSED = (
    TRACEBACK
    + """pydantic_core._pydantic_core.ValidationError: 1 validation error for CacheConfig
block_size
  Input should be greater than 0 [type=greater_than, input_value=0, input_type=int]
    For further information visit https://errors.pydantic.dev/2.14/v/greater_than
"""
)
CORE_TRACEBACK = "".join(f"{CORE}{line}\n" for line in TRACEBACK.splitlines())
WORKER_KILLED = "Worker proc VllmWorker-1 died unexpectedly (exit code: -9), shutting down executor."
KILLED = HIDDEN.replace("1}", "-9}")


def classify(log: str, phase: Phase, tmp_path: Path, *, exit_code: int = 1, oom_kills: int = 0) -> EngineError:
    path = tmp_path / "replica.log"
    path.write_text(log)
    told = classify_exit(exit_code, path, phase, oom_kills=oom_kills)
    assert told.log_path == path
    assert str(path) in str(told)
    return told


@pytest.mark.parametrize(
    ("line", "phase", "kind", "curable", "remedy"),
    [
        pytest.param(UTILIZATION, "start", "device", False, "Another process holds the memory", id="other process"),
        pytest.param(CPU_KV, "start", "host", False, "lower kv_cache_space_gib", id="cpu kv cache"),
        pytest.param(NO_BLOCKS, "start", "device", False, "leave no room for a KV cache", id="no cache blocks"),
        pytest.param(MODEL_LEN, "start", "device", False, "lower max_model_len", id="model length"),
        pytest.param(CUDA, "start", "device", False, "The weights alone do not fit", id="weights"),
        pytest.param(LOADED + CUDA, "start", "device", True, "question_batch_size", id="after the weights"),
        pytest.param(LOADED + SAMPLER, "start", "device", True, "question_batch_size", id="sampler warm-up"),
        pytest.param(CUDA, "run", "device", True, "question_batch_size", id="at run time"),
        pytest.param("torch.AcceleratorError: CUDA error: out of memory", "run", "device", True, "", id="driver"),
        pytest.param(
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "run",
            "device",
            True,
            "",
            id="cublas",
        ),
        pytest.param(CPU_ALLOCATOR, "start", "host", True, "", id="cpu allocator"),
        pytest.param("memory allocation of 256 bytes failed", "run", "host", True, "", id="rust allocator"),
        pytest.param("MemoryError", "run", "host", True, "", id="python"),
        pytest.param(
            "terminate called after throwing an instance of 'std::bad_alloc'", "run", "host", True, "", id="c++"
        ),
        pytest.param("OSError: [Errno 12] Cannot allocate memory", "run", "host", True, "", id="errno"),
        pytest.param(CORE + CUDA + "\n" + HIDDEN, "run", "device", True, "", id="behind a logger's prefix"),
        pytest.param(
            f"ImportError: x\n{LOADED}{CORE_FAILED}{CORE}{CUDA}\n{HIDDEN}",
            "start",
            "device",
            True,
            "",
            id="core's words",
        ),
    ],
)
def test_memory_failures_are_told_apart(
    line: str, phase: Phase, kind: str, curable: bool, remedy: str, tmp_path: Path
) -> None:
    told = classify(line, phase, tmp_path)
    assert isinstance(told, OutOfMemory)
    assert (told.kind, told.phase, told.curable, told.retryable) == (kind, phase, curable, curable)
    assert remedy in told.remedy
    assert told.reason in line


@pytest.mark.parametrize(
    ("log", "phase", "reason"),
    [
        pytest.param(CORE + "ImportError: libcudart.so\n" + HIDDEN, "start", "ImportError: libcudart.so", id="cause"),
        pytest.param(
            CORE
            + "Traceback (most recent call last):\n"
            + CORE
            + "    raise torch.OutOfMemoryError\n"
            + CORE
            + "KeyError: 'x'",
            "start",
            "KeyError: 'x'",
            id="quoted code names nothing",
        ),
        pytest.param(TRACEBACK + "ValueError: bad\n", "run", "ValueError: bad", id="raw traceback"),
        pytest.param(
            "WARNING 11-23 15:51:40 [x.py:1] CUDA out of memory is likelier without chunked prefill\nValueError: bad",
            "run",
            "ValueError: bad",
            id="a warning is no failure",
        ),
        pytest.param("ValueError: first\n\nRuntimeError: second\n", "run", "ValueError: first", id="the first one"),
        pytest.param("zmq.error.Again: Resource temporarily unavailable", "run", "zmq.error.Again", id="no memory"),
        pytest.param(
            f"ImportError: no flash_attn\n{LOADED}{CORE_FAILED}{CORE}KeyError: 'x'\n{HIDDEN}",
            "run",
            "KeyError: 'x'",
            id="the engine core's last words count before an earlier error that was overcome",
        ),
        pytest.param(
            f"{CORE}ValueError: a worker's own\n{CORE_FAILED}{CORE}RuntimeError: Worker failed with error 'a worker''s "
            "own', please check the stack trace above for the root cause",
            "run",
            "ValueError: a worker's own",
            id="but not when they repeat a worker's",
        ),
        pytest.param(TRACEBACK + "Exception: only on GPUs\n", "start", "Exception: only on GPUs", id="bare exception"),
        pytest.param(REFUSED, "start", "vLLM refuses block_size of its CacheConfig: Input should", id="wrong setting"),
        pytest.param(
            "".join(f"{CORE}{line}\n" for line in REFUSED.splitlines()) + HIDDEN,
            "start",
            "greater than 0, which is 0",
            id="wrong setting in the core",
        ),
        pytest.param("nothing of note", "run", "exit code 1", id="no error"),
        pytest.param("", "start", "the log names no error", id="empty log"),
    ],
)
def test_other_failures_name_their_first_cause(log: str, phase: Phase, reason: str, tmp_path: Path) -> None:
    told = classify(log, phase, tmp_path)
    assert type(told) is (EngineStartError if phase == "start" else EngineCrashed)
    assert reason in told.reason
    assert told.retryable == (phase == "run")


@pytest.mark.parametrize(
    ("exit_code", "oom_kills", "log", "expected"),
    [
        pytest.param(-9, 1, "ValueError: earlier", OutOfMemory, id="the kernel's doing"),
        pytest.param(-9, 0, "", EngineCrashed, id="somebody's doing"),
        pytest.param(-6, 1, "", EngineCrashed, id="another process was the one out of memory"),
        pytest.param(-6, 0, "memory allocation of 8 bytes failed", OutOfMemory, id="aborted for lack of memory"),
        pytest.param(1, 1, KILLED, OutOfMemory, id="the kernel killed the engine core in its start"),
        pytest.param(1, 0, KILLED, EngineCrashed, id="somebody did"),
        pytest.param(
            1, 1, "engine process EngineCore ended by signal 9; this process ends with it", OutOfMemory, id="or later"
        ),
        pytest.param(1, 1, CORE + WORKER_KILLED, OutOfMemory, id="the kernel killed a worker"),
        pytest.param(1, 0, CORE + WORKER_KILLED, EngineCrashed, id="somebody killed a worker"),
        pytest.param(-11, 0, "ImportWarning", EngineCrashed, id="segmentation fault"),
    ],
)
def test_deaths_by_signal(exit_code: int, oom_kills: int, log: str, expected: type, tmp_path: Path) -> None:
    for phase in ("start", "run"):
        told = classify(log, phase, tmp_path, exit_code=exit_code, oom_kills=oom_kills)
        assert type(told) is expected
        # whoever sent the signal, trying again can help, also when it came during the start
        assert told.retryable
        assert isinstance(told, OutOfMemory) or f"signal {abs(exit_code) if exit_code < 0 else 9}" in told.reason


def test_a_report_counts_before_the_log_and_the_log_before_the_exit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOADED + CORE + CPU_ALLOCATOR)
    report = classify_report(TRACEBACK + CUDA, 1, log, "start", oom_kills=1)
    assert isinstance(report, OutOfMemory)
    # the log shows that the weights were loaded, though the report does not
    assert (report.kind, report.curable) == ("device", True)
    hidden = classify_report(TRACEBACK + HIDDEN, 1, log, "start", oom_kills=0)
    assert isinstance(hidden, OutOfMemory)
    assert hidden.kind == "host"


def test_a_missing_log_is_no_failure_of_its_own(tmp_path: Path) -> None:
    assert isinstance(classify_exit(3, tmp_path / "none", "run", oom_kills=0), EngineCrashed)


def test_the_oom_kill_counter_is_readable_here() -> None:
    assert count_oom_kills() >= 0
