"""Makes the README.md of an export: its contents, and how a trainer reads it."""

from typing import Any

from tasks.export.usage import usage
from tasks.plain_text import markdown

_HEADER = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train-*{suffix}
tags:
- rollouts
- reinforcement-learning
---

# {run_id} for {to}

{rollouts} rollouts in {groups} groups, of {rollouts_read} that the run holds. Columns are those of {source};
token ids are as they were sampled. Fingerprint of the run: {fingerprint}.

Left out: {dropped}. Filters: {filters}.
{warnings}
{usage}
"""


def export_card(manifest: dict[str, Any], suffix: str) -> str:
    """Return the card of an export, from the fields of its manifest. Its files have the ``suffix``."""
    filters = {name: value for name, value in manifest["filters"].items() if value not in (None, False, ())}
    return _HEADER.format(
        **{
            **{name: markdown(value) for name, value in manifest.items()},
            "suffix": suffix,
            "dropped": markdown(
                ", ".join(f"{count} ({reason})" for reason, count in manifest["dropped"].items()) or "nothing"
            ),
            "filters": markdown(", ".join(f"{name}={value}" for name, value in filters.items()) or "none"),
            "warnings": "".join(f"\n**Warning:** {markdown(told)}.\n" for told in manifest["warnings"]),
            "usage": usage(manifest),
        }
    )
