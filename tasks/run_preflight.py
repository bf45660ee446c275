"""Preflight for a planned run: the checks, on disk and as a gate."""

from tasks.preflight import PreflightReport, run_preflight
from tasks.remote import Transfer
from tasks.run_plan import RunPlan
from tasks.store import publish_json

BYTES_PER_TOKEN = 12
"""A stored completion token: its id, its logprob and its text, before compression."""


def preflight_run(plan: RunPlan, upload_url: str | None, transfer: Transfer | None = None) -> PreflightReport:
    """Check the node for ``plan``, publish preflight.json, and raise PreflightFailed when a check failed."""
    tokens = plan.config.sampling.max_tokens * (1 + 2 * plan.config.sampling.top_logprobs)
    report = run_preflight(
        plan.profile,
        model_path=plan.model.path,
        runs_dir=plan.paths.root.parent,
        expected_output_bytes=plan.num_rollouts * tokens * BYTES_PER_TOKEN,
        upload_url=upload_url,
        transfer=transfer,
        arms=len(plan.arms.arms),
        samples=plan.config.sampling.samples_per_arm,
    )
    publish_json(report.to_json(), plan.paths.preflight)
    report.raise_if_failed()
    return report
