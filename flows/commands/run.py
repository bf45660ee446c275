"""``harvest run``: collect rollouts in this process, on Prefect's embedded server or the one that is set up."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from flows.commands.block_option import add_block_option

DEFAULT_RUNS_DIR = "runs"


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="collect rollouts: generate, score, validate, upload",
        description="Ask every question under every arm, score the answers, check them and store them. The same "
        "command again resumes an interrupted run and skips what is finished.",
    )
    add_run_options(parser)
    add_node_options(parser)
    add_outcome_options(parser)
    parser.add_argument("--forget-oom-rung", action="store_true", help="begin with the profile's full batch again")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--verbose", action="store_true", help="show Prefect's log too")
    parser.set_defaults(execute=execute)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what to collect; what is not given is the profile's or the flow's own default."""
    parser.add_argument("--profile", metavar="P", help="a shipped profile or a TOML file (default cpu-demo)")
    parser.add_argument("--model", metavar="M", help='a directory, a hub id or "demo" (default: the profile\'s)')
    parser.add_argument("--dataset", metavar="D", help='"demo", a .jsonl/.json/.csv/.parquet file or a hub id')
    parser.add_argument("--dataset-config", metavar="C", help="hub configuration")
    parser.add_argument("--split", metavar="S", help="split (default test)")
    parser.add_argument("--question-column", metavar="C", help="column of the question (default question)")
    parser.add_argument("--answer-column", metavar="C", help="column of the answer (default answer)")
    parser.add_argument("--id-column", metavar="C", help="column of unique ids (default: split and row number)")
    parser.add_argument(
        "--filter",
        dest="filters",
        action="append",
        metavar="F",
        help="only rows with COLUMN OPERATOR VALUE: = != < <= > >= or ~ !~ for a regular expression; may be repeated",
    )
    parser.add_argument("--shuffle-seed", type=int, metavar="N", help="take questions in a random order of this seed")
    parser.add_argument(
        "--streaming",
        action="store_const",
        const=True,
        help="read a hub dataset row by row, without downloading all of it",
    )
    parser.add_argument("--arms", metavar="A", help="a shipped arm set or a TOML file (default math8)")
    parser.add_argument(
        "--questions", "--n-samples", type=int, metavar="N", help="take so many questions (default all)"
    )
    parser.add_argument("--samples-per-arm", type=int, metavar="K", help="completions per question and arm (default 1)")
    parser.add_argument("--question-batch-size", type=int, metavar="B", help="questions in flight per replica")
    parser.add_argument("--temperature", type=float, metavar="T", help="sampling temperature (default 0.7)")
    parser.add_argument("--top-p", type=float, metavar="P", help="nucleus sampling mass (default 1)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest completion in tokens (default 512)")
    parser.add_argument("--stop", action="append", metavar="S", help="end completions at this string; may be repeated")
    parser.add_argument(
        "--prompt-format",
        choices=("chat", "plain"),
        help="chat takes the model's chat template, plain gives base models text to complete (default: each arm's)",
    )
    parser.add_argument(
        "--prompt-template", metavar="T", help="plain prompts: text with {question} in it, or a .txt file of it"
    )
    parser.add_argument(
        "--chat-template-kwargs",
        metavar="JSON",
        help="""more for the chat template, such as '{"enable_thinking": false}'""",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="run seed (default 0)")
    parser.add_argument(
        "--top-logprobs",
        type=int,
        metavar="K",
        help="most likely tokens stored per position (default 0; 5 with --baseline, and with a baseline profile)",
    )
    parser.add_argument(
        "--shard-size", type=int, metavar="N", help="questions per shard (default: from the dataset's size)"
    )
    parser.add_argument(
        "--lengths",
        metavar="L",
        help="benchmarks: draw completion lengths, lognormal[:MEDIAN[:SIGMA]], not the model's",
    )
    parser.add_argument("--scorer", metavar="S", help="gsm8k (default), math or package.module:function")
    parser.add_argument("--runs-dir", metavar="DIR", help=f"where runs are kept (default {DEFAULT_RUNS_DIR})")
    parser.add_argument("--name", metavar="NAME", help="readable start of the run id")


def add_outcome_options(parser: argparse.ArgumentParser) -> None:
    """The options for what a finished run is compared with and where it goes."""
    parser.add_argument(
        "--baseline", metavar="RUN", help="compare with this run: an id, a directory, a URL, or auto to generate one"
    )
    parser.add_argument(
        "--require", choices=("bitwise", "numerical", "statistical"), help="equivalence required (default statistical)"
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        metavar="E",
        help="statistical equivalence: largest difference of the mean reward that counts as none (default 0.02)",
    )
    parser.add_argument("--upload", metavar="URL", help="upload to this directory or s3:// URL")
    add_block_option(parser)
    parser.add_argument(
        "--skip-finished", action="store_true", default=None, help="end at once when this run is finished already"
    )


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """The options for a collection over several nodes."""
    parser.add_argument(
        "--nodes", type=int, metavar="N", help="generate on N nodes, which run harvest worker --pool harvest-nodes"
    )
    parser.add_argument(
        "--shared",
        metavar="URL",
        help="with --nodes: a directory or s3:// URL that all nodes reach, for work under way",
    )


def run_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """The flow's parameters, as far as they were given."""
    not_parameters = {"command", "execute", "json", "verbose", "forget_oom_rung"}
    return {key: value for key, value in vars(options).items() if key not in not_parameters and value is not None}


def as_options(parameters: Mapping[str, Any]) -> list[str]:
    """``parameters`` of the flow as options of this command."""
    options: list[str] = []
    for name, value in parameters.items():
        option = "--filter" if name == "filters" else f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            options += [f"{option}={item}" for item in value]
        elif isinstance(value, dict):
            options.append(f"{option}={json.dumps(value)}")
        elif value is True:
            options.append(option)
        elif value is not None and value is not False:
            options.append(f"{option}={value}")
    return options


def execute(options: argparse.Namespace) -> int:
    import datetime

    from tasks.plan.placeholders import fill_placeholders

    parameters = fill_placeholders(run_parameters(options), datetime.date.today())
    runs_dir = Path(parameters.setdefault("runs_dir", DEFAULT_RUNS_DIR))
    check_input(parameters, runs_dir, forget_rung=options.forget_oom_rung)
    if (nodes := parameters.get("nodes", 1)) > 1:
        need_server(f"nodes is {nodes}, and nodes are started through a Prefect server")

    from flows.server.embedded_server import EmbeddedServer
    from flows.server.interruption import RESUMES, Interruption
    from flows.server.prefect_environment import configure_prefect, import_prefect_without_pandas

    server = EmbeddedServer() if configure_prefect(runs_dir, verbose=options.verbose) else None
    interruption = Interruption(RESUMES)
    import_prefect_without_pandas()

    from flows.collect import collect_rollouts
    from flows.reporting.progress import console_output
    from flows.reporting.summary_view import print_summary
    from tasks.results.run_report import RunReport

    if server is not None:
        server.wait_until_ready()
    console_output.set(sys.stderr)
    # whoever watches decides about another attempt; retries are for runs that nobody watches
    try:
        report = cast(dict[str, Any], collect_rollouts.with_options(retries=0)(**parameters))
    except Exception:
        if interruption.was_signalled:
            # where Prefect was not prepared for it
            raise KeyboardInterrupt from None
        raise
    if options.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print_summary(RunReport.from_json(report))
    return 0


def check_input(parameters: dict[str, Any], runs_dir: Path, *, forget_rung: bool = False) -> None:
    """Refuse bad input before Prefect, whose import takes seconds, and before anything is written."""
    from tasks.comparison.baseline import check_baseline
    from tasks.fleet.shared_run import check_nodes
    from tasks.generation.saved_rung import forget_rung as forget
    from tasks.plan.run_config import config_from_parameters
    from tasks.plan.run_plan import plan_run
    from tasks.scoring.score_shard import load_scorer
    from tasks.storage.destination import check_destination
    from tasks.storage.filesystems import check_url

    config = config_from_parameters(parameters)
    plan = plan_run(config, runs_dir)
    load_scorer(config.scorer)
    check_baseline(parameters.get("baseline"), plan)
    # with a block, only the flow itself can ask the destination
    check = check_destination if parameters.get("aws_credentials_block") is None else check_url
    check_nodes(parameters.get("nodes", 1), parameters.get("shared"), parameters.get("baseline"), check)
    if (url := parameters.get("upload")) is not None:
        check(url)
    if forget_rung:
        forget(plan)


def need_server(why: str = "") -> None:
    """Raise ConfigError without a Prefect server that outlives this command."""
    from flows.server.prefect_environment import import_prefect_without_pandas, set_prefect_defaults
    from tasks.errors import ConfigError

    set_prefect_defaults()
    import_prefect_without_pandas()
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise ConfigError(
            f"{why + ', but ' if why else ''}no Prefect server is set up. Start one with prefect server start, and set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api here and for the workers"
        )
