"""Whose rollouts a run holds: a model, or one with an adapter beside it. An engine may serve several at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import ConfigError
from tasks.plan.model_source import adapter_digest, joint_digest, weights_digest

if TYPE_CHECKING:
    # a replica gets its policies ready made, and starts sooner without what makes a plan
    from tasks.plan.run_plan import RunPlan


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter as the engine knows it. ``number`` is its own among the adapters of an engine, from 1."""

    name: str
    path: Path
    number: int


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A run, the name and the revision that its rollouts store, and the files from which the engine gets them."""

    run_id: str
    model: str
    model_revision: str
    weights: Path
    """The directory of the model, which holds the tokenizer too."""
    weights_digest: str
    """See ``tasks.plan.model_source``; with an adapter, of both."""
    adapter: Adapter | None = None

    def check_files(self) -> None:
        """Raise ConfigError when the weights or the adapter are no longer those of the run."""
        found, where = weights_digest(self.weights), f"the weights in {self.weights}"
        if self.adapter is not None:
            found = joint_digest(found, adapter_digest(self.adapter.path))
            where += f" or the adapter in {self.adapter.path}"
        if found != self.weights_digest:
            raise ConfigError(
                f"{where} have changed since the run was planned. Run the same command again when they are complete: "
                "other weights make another run"
            )


def policies_of(plans: "Sequence[RunPlan]") -> tuple[Policy, ...]:
    """Return the policy of each of the ``plans`` that one engine serves, in their order."""
    adapters = _adapters(plans)
    return tuple(
        Policy(
            run_id=plan.run_id,
            model=plan.model.name,
            model_revision=plan.model.revision,
            weights=plan.model.path,
            weights_digest=plan.model.weights_digest,
            adapter=adapters.get(plan.run_id),
        )
        for plan in plans
    )


def _adapters(plans: "Sequence[RunPlan]") -> dict[str, Adapter]:
    found = [(plan.run_id, plan.adapter) for plan in plans if plan.adapter is not None]
    return {
        run_id: Adapter(name=adapter.name, path=adapter.path, number=number)
        for number, (run_id, adapter) in enumerate(found, start=1)
    }
