"""The failure model: a type for every way in which a run can fail.

A failure gets its type where it is first seen, and then propagates. What each type means for the run:

=================  ====  ==============================================================================
type               exit  what happens
=================  ====  ==============================================================================
ConfigError         2    bad input, found before any engine starts; it leaves no run directory
PreflightFailed     2    the node or the destination cannot do the job; nothing was loaded
RunLocked           2    another process works on this run; it is named; nothing was touched
OutOfMemory         1    memory ran out; *curable* ones step down the OOM ladder and retry first
EngineStartError    1    the engine never became ready; the reason was not memory
SettingRefused      2    vLLM refused a setting before it started an engine core
EngineStalled       1    the engine is alive but makes no token; it was killed; retried with the same settings
EngineCrashed       1    the engine process ended; retried with the same settings, with back-off
ReloadRefused       1    an engine did not take the weights of another checkpoint; a new one starts with them
PromptTooLong       -    one prompt leaves no room for max_tokens; it becomes an error row and the run goes on
StorageError        1    a disk or a bucket refused a write; finished files are intact, resume works
DamagedFile         1    a file of a run cannot be read; the message names the file and what is wrong
UploadError         1    the destination does not hold the files that were sent; ``_SUCCESS`` was not written; after
                         an outage the task is tried again, for minutes
NodesLost           1    no node can generate, and shards are unfinished; what was fetched is kept
PoolClosed          1    the run ended, for a reason of its own, before this shard was generated; resume works
NotEquivalent       3    the outputs differ from the baseline's by more than was required, or a run lacks rollouts
=================  ====  ==============================================================================

A single bad question (empty, or too long for the context) is not an error of the run: its rollouts become
*error rows* (``error`` set, reward null), counted in the report, and the run goes on. The same holds for a
request that kills the engine twice.

How an engine failure is classified, first match wins: the replica's own typed report; death by SIGKILL with a
rise of the cgroup's ``oom_kill`` counter (host memory); the first line of the replica's log that names the reason;
otherwise it is *not* an out-of-memory failure. An engine that a signal ended has crashed, also during its start. An
engine that has started before in the same session is started again, for whatever reason this start failed.
"""

from pathlib import Path
from typing import ClassVar, Literal

from tasks.plain_text import visible

MemoryKind = Literal["device", "host"]
Phase = Literal["start", "run"]


class HarvestError(Exception):
    """Base of every failure that Rollout Harvest raises on purpose.

    ``exit_code`` is the exit code of the command line. ``retryable`` says whether the same call can succeed later
    without a change by the user.
    """

    exit_code: ClassVar[int] = 1
    retryable: bool = False

    def __init__(self, message: str = "") -> None:
        # a message quotes text of others, and terminals, logs and Prefect's pages show it
        super().__init__(visible(message))


class ConfigError(HarvestError):
    """The input is wrong. The message says what was given, what is allowed and what to do."""

    exit_code = 2


class PreflightFailed(HarvestError):
    """At least one preflight check failed; the message lists the failed checks with their remedies."""

    exit_code = 2


class RunLocked(HarvestError):
    """Another live process holds this run directory."""

    exit_code = 2


class PromptTooLong(HarvestError):
    """A prompt and ``max_tokens`` together exceed the context. All three are in tokens."""

    def __init__(self, *, num_prompt_tokens: int, max_tokens: int, max_model_len: int) -> None:
        super().__init__(
            f"the prompt has {num_prompt_tokens} tokens; with max_tokens {max_tokens} it exceeds max_model_len "
            f"{max_model_len}"
        )


class StorageError(HarvestError):
    """A file could not be written or published."""


class DamagedFile(HarvestError):
    """A file of a run cannot be read; the message names the file and what is wrong with it."""


class DamagedRecord(DamagedFile):
    """The small file of a run at ``path`` cannot be used, for ``reason``. The message says so, and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is damaged: {reason}. Run the command that made the run again: it sets the file aside and makes "
            "it again"
        )
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)


class UploadError(HarvestError):
    """The destination does not hold the run, complete and verified.

    ``retryable`` after an outage: server errors, time-outs, broken connections.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class NodesLost(HarvestError):
    """Every node has stopped, and shards are unfinished."""


class PoolClosed(HarvestError):
    """The run ends, for a reason of its own, and nothing generates this shard any more."""


class NotEquivalent(HarvestError):
    """The run's outputs are not the same as the baseline's in the required sense."""

    exit_code = 3


class EngineError(HarvestError):
    """An engine failure, with its reason, the path of its log, and a remedy."""

    def __init__(self, reason: str, *, log_path: Path | None = None, remedy: str = "") -> None:
        self.reason = reason
        self.log_path = log_path
        self.remedy = remedy
        parts = [reason.rstrip(".")]
        if remedy:
            parts.append(remedy.rstrip("."))
        if log_path is not None:
            parts.append(f"engine log: {log_path}")
        super().__init__(". ".join(parts))


class OutOfMemory(EngineError):
    """Device or host memory ran out, at engine start or while generating.

    ``curable`` is False when a smaller batch cannot help: another process holds the memory, or the weights alone
    do not fit. Only curable failures step down the OOM ladder.
    """

    def __init__(
        self,
        reason: str,
        *,
        kind: MemoryKind,
        phase: Phase,
        curable: bool = True,
        log_path: Path | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(reason, log_path=log_path, remedy=remedy)
        self.kind = kind
        self.phase = phase
        self.curable = curable
        self.retryable = curable


class EngineStartError(EngineError):
    """The engine did not become ready."""


class SettingRefused(EngineStartError):
    """vLLM's configuration refused a setting, before an engine core started."""

    exit_code = 2


class EngineStalled(EngineError):
    """Requests were in flight, and no token came within the stall limit."""

    retryable = True


class ReloadRefused(EngineError):
    """A running engine did not take the weights of another checkpoint; a new one is started with them."""

    retryable = True


class EngineCrashed(EngineError):
    """The engine process ended unexpectedly, and not because memory ran out."""

    retryable = True


def harvest_error(error: BaseException) -> HarvestError:
    """Return ``error``, or one of this module that names another's type."""
    return error if isinstance(error, HarvestError) else HarvestError(f"{type(error).__name__}: {error}")
