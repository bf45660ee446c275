"""What a collection returns: the report of its run, or of each of several runs on the same engines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.results.run_report import RunReport


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The reports of the runs of one collection, in the order of their policies; at least one."""

    reports: tuple[RunReport, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report of the only run, or {"runs": [...]} with the report of each."""
        if len(self.reports) == 1:
            return self.reports[0].to_json()
        return {"runs": [report.to_json() for report in self.reports]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Collected":
        """Return the reports that ``to_json`` made ``value`` of."""
        return cls(reports=tuple(RunReport.from_json(report) for report in value.get("runs", [value])))
