"""``harvest preflight`` and ``harvest plan``: what this node can do, before anything is loaded."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.commands.block_option import add_block_option, chosen_transfer
from flows.commands.run import DEFAULT_RUNS_DIR, add_run_options, run_parameters


def add(commands: Any) -> None:
    preflight = commands.add_parser(
        "preflight", help="check this node for a profile: GPUs, memory, disk, model files, destination"
    )
    preflight.add_argument("--profile", metavar="P", default="cpu-demo", help="a shipped profile or a TOML file")
    preflight.add_argument("--model", metavar="M", help='a directory, a hub id or "demo" (default: the profile\'s)')
    preflight.add_argument("--upload", metavar="URL", help="also write to and delete from this destination")
    add_block_option(preflight)
    preflight.add_argument("--runs-dir", metavar="DIR", type=Path, default=Path(DEFAULT_RUNS_DIR))
    preflight.add_argument("--smoke", action="store_true", help="also compute something on every GPU")
    preflight.set_defaults(execute=execute_preflight)

    plan = commands.add_parser(
        "plan", help="memory plan and advice for a run: what fits, and what would make it faster"
    )
    add_run_options(plan)
    plan.add_argument("--after", metavar="RUN", help="take completion lengths and truncation from this finished run")
    plan.set_defaults(execute=execute_plan)

    for parser in (preflight, plan):
        parser.add_argument("--json", action="store_true", help="print as JSON")


def execute_preflight(options: argparse.Namespace) -> int:
    from profiles.load import SettingsError, load_arms, load_profile
    from tasks.errors import ConfigError, HarvestError
    from tasks.node.node_checks import check_node
    from tasks.node.preflight_view import render_preflight

    try:
        profile = load_profile(options.profile)
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    report = check_node(
        profile,
        model_path=_model_path(options.model or profile.model),
        runs_dir=options.runs_dir,
        upload_url=options.upload,
        transfer=chosen_transfer(options, options.runs_dir),
        smoke=options.smoke,
        arms=len(load_arms(None).arms),
    )
    _print(options, report.to_json(), lambda: render_preflight(report))
    try:
        report.raise_if_failed()
    except HarvestError as error:
        return error.exit_code  # the table has said what failed
    return 0


def execute_plan(options: argparse.Namespace) -> int:
    from tasks.node.capacity_plan import plan_capacity
    from tasks.node.preflight_view import render_plan
    from tasks.plan.run_config import config_from_parameters
    from tasks.plan.run_plan import plan_run

    runs_dir = Path(options.runs_dir or DEFAULT_RUNS_DIR)
    run = plan_run(config_from_parameters(run_parameters(options)), runs_dir)
    length, truncation = _observed(options.after, runs_dir)
    capacity = plan_capacity(run, completion_length=length, truncation_rate=truncation)
    _print(options, asdict(capacity), lambda: render_plan(capacity.plan, capacity.advice))
    return 0


def _model_path(name: str | None) -> Path | None:
    """The model's directory; what is wrong inside it is a check's to say."""
    from tasks.plan.model_source import locate_model

    return None if name is None else locate_model(name)[0]


def _observed(name: str | None, runs_dir: Path) -> tuple[float | None, float | None]:
    """Mean completion length in tokens and truncation rate of an earlier run."""
    if name is None:
        return None, None
    import polars as pl

    from tasks.plan.run_directory import find_run

    rollouts = pl.scan_parquet(find_run(name, runs_dir) / "rollouts" / "*.parquet").filter(pl.col("error").is_null())
    means = rollouts.select(pl.col("num_completion_tokens").mean(), pl.col("is_truncated").mean()).collect()
    length, truncated = means.row(0)
    return length, truncated


def _print(options: argparse.Namespace, value: dict[str, Any], view: Any) -> None:
    if options.json:
        print(json.dumps(value, indent=2))
        return
    from flows.commands.terminal import console

    console().print(view())
