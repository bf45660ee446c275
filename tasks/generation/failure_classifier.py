"""Finds out why an engine failed, from its exception, its exit code and its log.

``tasks.errors`` says which of them counts first.
"""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import EngineCrashed, EngineError, EngineStartError, MemoryKind, OutOfMemory, Phase

_LOG_TAIL_BYTES = 2_000_000
_PREFIX = re.compile(
    r"^(?:\x1b\[[0-9;]*m)*(?:\([^()]*pid=\d+[^()]*\) )*"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
)
_ERROR_LINE = re.compile(
    r"^(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b(?::.*|$)|^(?:[a-z_]\w*\.)+[A-Z]\w*: .*|"
    r"^Exception: .*|^terminate called after.*|^Fatal Python error:.*"
)
_NOT_A_CAUSE = re.compile(
    r"Engine core initialization failed|EngineDeadError|Engine core proc .* died|WorkerProc initialization failed"
)
_WRONG_SETTING = re.compile(r"\d+ validation errors? for (?P<of>\w+)$")
"""The first line of pydantic's exception, with which vLLM's configurations refuse a value: the next two say which."""
_INPUT = re.compile(r" ?\[type=.*?(?:, input_value=(?P<value>.*), input_type=\w+)?\]$")
_WEIGHTS_LOADED = re.compile(r"Loading weights took|Model loading took|KV cache size", re.IGNORECASE)
_CORE_FAILED = re.compile(r"EngineCore (failed to start|encountered a fatal error)\.$", re.MULTILINE)
"""After such a line an engine core in its own process logs the exception that ends it, which it does not send."""
_WORKER_FAILED = "Worker failed with error"
"""The core's exception for one of a worker, which is logged earlier."""
_ENGINE_PROCESS_ENDED = re.compile(
    r"engine process \S+ ended by signal (\d+)|Failed core proc\(s\): \{'\w+': -(\d+)|"
    r"Worker proc \S+ died unexpectedly \(exit code: -(\d+)\)"
)


@dataclass(frozen=True, kw_only=True)
class _Symptom:
    pattern: re.Pattern[str]
    kind: MemoryKind
    curable: bool
    remedy: str


def _symptom(pattern: str, kind: MemoryKind, *, curable: bool, remedy: str = "") -> _Symptom:
    return _Symptom(pattern=re.compile(pattern, re.IGNORECASE), kind=kind, curable=curable, remedy=remedy)


# vLLM 0.32's own messages come first: they say more than the allocation error that may follow them
_SYMPTOMS = (
    _symptom(
        r"less than desired (GPU|CPU) memory utilization",
        "device",
        curable=False,
        remedy="Another process holds the memory, which a smaller batch cannot free: end it (harvest preflight lists "
        "it), or lower gpu_memory_utilization",
    ),
    _symptom(
        r"less than requested memory for kv",
        "host",
        curable=False,
        remedy="The KV cache asked for is larger than what this node has free: lower kv_cache_space_gib, or end other "
        "processes",
    ),
    _symptom(
        r"to serve at least one request with the model'?s'? max(imum)? seq(uence)? len|"
        r"larger than the available KV cache memory",
        "device",
        curable=False,
        remedy="The KV cache cannot hold one sequence of max_model_len: lower max_model_len, raise "
        "gpu_memory_utilization, or spread the weights with a larger tensor_parallel_size",
    ),
    _symptom(
        r"no available memory for the cache blocks",
        "device",
        curable=False,
        remedy="Weights and activations leave no room for a KV cache: raise gpu_memory_utilization or "
        "tensor_parallel_size",
    ),
    _symptom(
        r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|"
        r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|HIP out of memory|Cuda failure 2 'out of memory'",
        "device",
        curable=True,
    ),
    _symptom(
        r"DefaultCPUAllocator: (can't allocate memory|not enough memory)|std::bad_alloc|^MemoryError\b|"
        r"Cannot allocate memory|Unable to allocate .* for an array|Memory allocation still failed|"
        r"memory allocation of \d+ bytes failed|failed to map segment from shared object|"
        r"Thread creation failed: Resource temporarily unavailable",
        "host",
        curable=True,
    ),
)

_WEIGHTS_REMEDY = (
    "The weights alone do not fit, which a smaller batch cannot change: use a larger tensor_parallel_size, a smaller "
    "or quantized model, or a larger device"
)
_BATCH_REMEDY = "Lower question_batch_size, gpu_memory_utilization or max_num_batched_tokens"


def find_cause(text: str, phase: Phase, log_path: Path | None = None, *, log: str = "") -> EngineError | None:
    """Return the failure that ``text`` names, or None. ``text`` is a log, or an exception with its traceback.

    For an exception, ``log`` is the log, which shows how far the engine came.
    """
    lines = _relevant_lines(text)
    for line in lines:
        for symptom in _SYMPTOMS:
            if symptom.pattern.search(line):
                weights_loaded = _WEIGHTS_LOADED.search(text) or _WEIGHTS_LOADED.search(log)
                return _out_of_memory(line, symptom, phase, log_path, weights_loaded=bool(weights_loaded))
    causes = [line for line in lines if _ERROR_LINE.match(line) and not _NOT_A_CAUSE.search(line)]
    if not causes:
        return None
    cause = _refused_setting(text, causes[0]) or causes[0]
    return (EngineStartError if phase == "start" else EngineCrashed)(cause[:500], log_path=log_path)


def classify_report(text: str, exit_code: int, log_path: Path, phase: Phase, *, oom_kills: int) -> EngineError:
    """Return the failure that the replica's exception ``text`` names; if it names none, the failure behind the exit."""
    found = find_cause(text, phase, log_path, log=_log_tail(log_path))
    return found or classify_exit(exit_code, log_path, phase, oom_kills=oom_kills)


def classify_exit(exit_code: int, log_path: Path, phase: Phase, *, oom_kills: int) -> EngineError:
    """Return the failure of a replica that ended without a report.

    ``exit_code`` is negative for a signal. ``oom_kills`` counts the processes of the cgroup that the kernel killed for
    lack of memory while the replica ran.
    """
    log = _log_tail(log_path)
    signal_number = -exit_code if exit_code < 0 else _engine_process_signal(log)
    if signal_number == signal.SIGKILL and oom_kills > 0:
        return OutOfMemory(
            "the kernel killed the engine: host memory is exhausted (cgroup oom_kill)",
            kind="host",
            phase=phase,
            log_path=log_path,
            remedy="Lower question_batch_size or kv_cache_space_gib, or give the node more memory",
        )
    found = find_cause(_core_report(log), phase, log_path, log=log) or find_cause(log, phase, log_path)
    if isinstance(found, OutOfMemory) or (found is not None and signal_number is None):
        return found
    named = f"the log's first error is: {found.reason}" if found else "the log names no error"
    if signal_number is not None:
        # a signal from outside says nothing against the engine, so another start may succeed
        return EngineCrashed(f"the engine was ended by signal {signal_number}; {named}", log_path=log_path)
    reason = f"the engine process ended with exit code {exit_code}; {named}"
    return (EngineStartError if phase == "start" else EngineCrashed)(reason, log_path=log_path)


def _core_report(log: str) -> str:
    """Return the log from the engine core's last words on; nothing where it is silent or repeats a worker's."""
    matches = list(_CORE_FAILED.finditer(log))
    report = log[matches[-1].end() :] if matches else ""
    return "" if _WORKER_FAILED in report else report


def _relevant_lines(text: str) -> list[str]:
    """Return the lines that may name a failure: errors and raw output, without logger prefixes and quoted code."""
    lines = []
    for line in text.splitlines():
        prefix = _PREFIX.match(line)
        assert prefix is not None
        rest = line[prefix.end() :]
        if prefix["level"] in (None, "ERROR", "CRITICAL") and not rest.startswith(("  ", "\t")):
            lines.append(rest.strip())
    return lines


def _refused_setting(text: str, cause: str) -> str | None:
    """Return what vLLM says of the setting that it refuses, if ``cause`` begins such an exception in ``text``."""
    refused = _WRONG_SETTING.search(cause)
    if refused is None:
        return None
    found = [_PREFIX.sub("", line).strip() for line in text.partition(cause)[2].splitlines()[1:3]]
    if len(found) < 2:
        return None
    said = _INPUT.sub(lambda match: f", which is {match['value']}" if match["value"] else "", found[1])
    return f"vLLM refuses {found[0]} of its {refused['of']}: {said}"


def _out_of_memory(
    line: str, symptom: _Symptom, phase: Phase, log_path: Path | None, *, weights_loaded: bool
) -> OutOfMemory:
    curable, remedy = symptom.curable, symptom.remedy or _BATCH_REMEDY
    if curable and phase == "start" and symptom.kind == "device" and not weights_loaded:
        curable, remedy = False, _WEIGHTS_REMEDY
    return OutOfMemory(line[:500], kind=symptom.kind, phase=phase, curable=curable, log_path=log_path, remedy=remedy)


def _engine_process_signal(log: str) -> int | None:
    """Return the signal that ended an engine process other than the replica, as the log states it."""
    match = _ENGINE_PROCESS_ENDED.search(log)
    return int(next(filter(None, match.groups()))) if match else None


def _log_tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
