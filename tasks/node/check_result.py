"""One preflight check's outcome."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["pass", "skipped", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What was found, what is allowed, and one line of what to do.

    ``skipped`` means that the value could not be read or has no meaning here; it never stands for a pass. ``gpu`` is
    the NVML index, or None for a check of the node. ``is_input`` marks a failure of what the user gave, not the node.
    """

    name: str
    status: Status
    value: str
    limit: str = ""
    remedy: str = ""
    gpu: int | None = None
    is_input: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        where = self.name if self.gpu is None else f"GPU {self.gpu} {self.name}"
        limit = f" (limit: {self.limit})" if self.limit else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{where}: {self.value}{limit}{remedy}"
