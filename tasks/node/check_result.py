"""One preflight check's outcome."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "skipped", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check found, and one line of what to do about it."""

    name: str
    status: Status
    """"skipped" means that the value could not be read or has no meaning here; it never stands for a pass."""
    value: str
    limit: str = ""
    """What is allowed."""
    remedy: str = ""
    gpu: int | None = None
    """NVML index of the GPU; None for a check of the node."""
    is_input: bool = False
    """Whether a failure is the fault of the user's input, not of the node."""

    def __str__(self) -> str:
        where = self.name if self.gpu is None else f"GPU {self.gpu} {self.name}"
        limit = f" (limit: {self.limit})" if self.limit else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{where}: {self.value}{limit}{remedy}"
