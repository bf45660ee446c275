"""Defines the outcome of one preflight check."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "skipped", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The outcome of one check."""

    name: str
    """The thing that was checked."""
    status: Status
    """"skipped" means that the value could not be read or has no meaning here; it never means a pass."""
    value: str
    """The value that was found, in words with its unit."""
    limit: str = ""
    """The allowed values, in words with their unit."""
    remedy: str = ""
    """One line on what to do; empty when there is nothing to do."""
    gpu: int | None = None
    """NVML index of the GPU; None for a check of the node."""
    is_input: bool = False
    """Whether the user's input, not the node, is at fault when the check fails."""

    def __str__(self) -> str:
        where = self.name if self.gpu is None else f"GPU {self.gpu} {self.name}"
        limit = f" (limit: {self.limit})" if self.limit else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{where}: {self.value}{limit}{remedy}"
