"""The pages of ``harvest view`` answer this machine alone, show what the files say, and outlast files that go away."""

import http.client
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.locks import run_lock
from tasks.results.page_template import content_policy
from tasks.results.run_end import record_end
from tasks.viewing.run_server import RunServer
from tests.support.html_page import Page
from tests.support.patience import HTTP_SECONDS, scaled
from tests.support.report_run import HOSTILE, write_report_run
from tests.support.synthetic import write_run


@dataclass(frozen=True, kw_only=True)
class Site:
    """A server of a directory of runs."""

    runs_dir: Path
    server: RunServer

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        status, _, body = self.answer(path, method, **headers)
        return status, body

    def answer(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=scaled(HTTP_SECONDS))
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                for part in value.split(" and "):
                    connection.putheader(name, part)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def page(self, path: str) -> Page:
        status, body = self.ask(path)
        assert status == 200, body
        return Page(body)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    runs_dir = tmp_path / "runs"
    runs_dir.mkdir()
    with RunServer(runs_dir, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Site(runs_dir=runs_dir, server=server)
        server.shutdown()
        thread.join()


def test_runs_are_listed_with_their_states(site: Site) -> None:
    write_run(site.runs_dir / "half", arms=2).rollouts(1).unlink()
    for name in ("odd name?&#%<b>", "not UTF-8 \udcff"):
        write_run(site.runs_dir / "run", arms=2).root.rename(site.runs_dir / name)
    page = site.page("/")

    rows = [attributes["data-state"] for tag, attributes in page.elements if tag == "tr" and "data-state" in attributes]
    assert rows == ["interrupted"] * 3
    links = [attributes["href"] or "" for tag, attributes in page.elements if tag == "a"]
    assert sorted(site.ask(link)[0] for link in links) == [200, 200, 409]
    assert "is not UTF-8. Rename it" in site.ask("/run/not%20UTF-8%20%FF")[1]
    assert "odd name?&#%<b>" in page.words


def test_an_empty_directory_is_a_page(site: Site) -> None:
    assert "There is no run yet" in site.page("/").words
    site.runs_dir.rmdir()
    assert "There is no run yet" in site.page("/").words


@pytest.mark.parametrize(
    "path",
    [
        "/run/..",
        "/run/.",
        "/run/",
        "/run/%2e%2e",
        "/run/..%2f..%2fsecret",
        "/run/../../secret",
        "/run/%2fetc",
        "/run/run%00",
        "/run/run/config.json",
        "/run/run/../run",
        "/secret",
        "/runs/run/config.json",
        "/compare/x",
        "/RUN/run",
    ],
)
def test_no_address_leads_out_of_the_runs(path: str, site: Site) -> None:
    write_run(site.runs_dir / "run", arms=1, shards=1)
    write_run(site.runs_dir.parent / "secret", arms=["secret-arm"], shards=1)
    status, body = site.ask(path)
    assert status == 404
    assert "secret-arm" not in body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1", 200),
        ("LOCALHOST:9000", 200),
        ("127.0.0.1:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8484", 421),
        ("localhost:8484@evil.example", 421),
        ("10.0.0.7:8484", 421),
        ("[", 421),
        ("", 421),
        ("localhost and evil.example", 421),
    ],
)
def test_only_the_names_of_this_machine_are_answered(host: str, status: int, site: Site) -> None:
    """As a page of another site could lead its own name here."""
    write_run(site.runs_dir / "run-of-mine", arms=1, shards=1)
    answered, body = site.ask("/", Host=host)
    assert answered == status
    assert ("run-of-mine" in body) == (status == 200)


def test_it_listens_on_this_machine_alone(site: Site) -> None:
    assert site.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/", 501), ("DELETE", "/run/run", 501), ("HEAD", "/", 200), ("GET", "/?" + "a=1&" * 30, 400)],
)
def test_nothing_is_changed(method: str, path: str, status: int, site: Site) -> None:
    assert site.ask(path, method)[0] == status


def test_headers_keep_other_sites_out(site: Site) -> None:
    _, headers, _ = site.answer("/")
    assert headers["Content-Security-Policy"] == f"{content_policy(served=True)}; frame-ancestors 'none'"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers


def test_a_port_in_use_is_refused(site: Site) -> None:
    port = site.server.server_port
    with pytest.raises(ConfigError, match=rf"--port {port} of 127\.0\.0\.1 cannot be used: .*in use\. Give another"):
        RunServer(site.runs_dir, port)


def test_a_finished_run_is_its_report_with_links(site: Site) -> None:
    write_run(site.runs_dir / "run", arms=2, samples=2)
    page = site.page("/run/run")
    assert "Reward by arm" in page.words
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert {"/", "/run/run/rollouts"} <= links
    assert site.ask("/run/run")[1] == site.ask("/run/run")[1]


def test_a_run_in_the_middle_is_followed(site: Site) -> None:
    run = write_run(site.runs_dir / "run", arms=2, shards=3)
    for index in (1, 2):
        run.scores(index).unlink()
    run.rollouts(2).unlink()
    with run_lock(run.state / "lock"):
        page = site.page("/run/run/")
    assert f"Running: process {os.getpid()} on " in page.words
    record_end(run.root, ValueError("an engine's <b>last</b> words"))
    assert "running 16 of 24 rollouts are finished" in page.words
    assert "shards published 2 shards scored 1" in page.words
    assert "Reward by arm so far" in page.words
    [live] = [attributes for _, attributes in page.elements if "data-live" in attributes]
    assert (live["id"], live["data-every"]) == ("run", "3")

    assert "failed 16 of 24 rollouts are finished" in (ended := site.page("/run/run").words)
    assert "Why: " in ended
    write_run(run.root, arms=2, shards=3)
    assert "failed ValueError: an engine's <b>last</b> words" in site.page("/run/run").words
    assert not [attributes for _, attributes in site.page("/run/run").elements if "data-live" in attributes]


ADDRESSES = ("/", "/run/run", "/run/run/rollouts", "/run/run/question?id=q0000000", "/compare?run=run&run=other")


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: run.config.write_text("{"),
        lambda run: run.config.unlink(),
        lambda run: run.rollouts(0).write_bytes(run.rollouts(0).read_bytes()[:200]),
        lambda run: run.scores(1).write_bytes(b""),
        lambda run: run.rollouts(1).unlink(),
        lambda run: shutil.rmtree(run.root / "questions"),
        lambda run: shutil.rmtree(run.state),
        lambda run: run.report.write_text("[]"),
        lambda run: run.telemetry.write_text("PAR1"),
        lambda run: shutil.rmtree(run.root),
        lambda run: (shutil.rmtree(run.root), run.root.mkdir()),
    ],
    ids=[
        *("half a config", "no config", "half a shard", "empty scores", "no shard", "no questions", "no state"),
        *("wrong report", "wrong telemetry", "deleted", "emptied"),
    ],
)
def test_half_written_and_deleted_runs_are_told(damage: object, site: Site) -> None:
    run = write_run(site.runs_dir / "run", arms=2)
    write_run(site.runs_dir / "other", arms=2, variant=1)
    assert [site.ask(address)[0] for address in ADDRESSES] == [200] * 5
    damage(run)  # type: ignore[operator]
    for address in ADDRESSES:
        status, body = site.ask(address)
        assert status in (200, 404, 409), (address, body)
        assert "has a fault" not in body
    assert site.ask("/")[0] == 200
    assert site.ask("/run/other")[0] == 200


def test_rollouts_are_found_by_arm_outcome_and_words(site: Site) -> None:
    run = write_run(site.runs_dir / "run", arms=3, questions_per_shard=10, truncated=0.2)
    rows = pl.concat(pl.read_parquet(run.rollouts(index)) for index in (0, 1))
    asked = pl.read_parquet(run.questions(1))["question"][3]

    def shown(**fields: str) -> tuple[int, list[str]]:
        page = site.page(f"/run/run/rollouts?{urlencode(fields)}")
        counted = re.search(r"([\d,]+) rollouts, page", page.words)
        assert counted
        return int(counted[1].replace(",", "")), [a["data-kind"] or "" for tag, a in page.elements if tag == "details"]

    assert shown() == (60, shown(page="1")[1])
    assert [len(shown(page=page)[1]) for page in ("1", "2", "3", "9")] == [25, 25, 10, 10]
    assert shown(arm="concise")[0] == 20
    assert {*shown(kind="truncated")[1]} == {"truncated"}
    assert shown(kind="truncated")[0] == rows["is_truncated"].sum()
    assert shown(text=asked.upper())[0] == rows.filter(pl.col("prompt").list.last().struct["content"] == asked).height
    assert shown(text=".*")[0] == 0
    assert shown(arm="none", text="x")[0] == 0
    for wrong in ("kind=x", "page=0", "page=x", "page=-1"):
        assert site.ask(f"/run/run/rollouts?{wrong}")[0] == 409


def test_a_question_under_every_arm(site: Site) -> None:
    write_run(site.runs_dir / "run", arms=3, samples=2)
    page = site.page("/run/run/question?id=q0000005")
    sides = [attributes["aria-label"] for tag, attributes in page.elements if tag == "section"]
    assert sides == ["algebra", "algebra", "concise", "concise", "step_by_step", "step_by_step"]
    assert site.ask("/run/run/question?id=q9")[0] == 409


def test_two_runs_are_compared(site: Site) -> None:
    write_run(site.runs_dir / "first", arms=2, questions_per_shard=20, accuracy=0.9)
    write_run(site.runs_dir / "second", arms=2, questions_per_shard=20, accuracy=0.1, variant=1, tested={"replicas": 2})
    write_run(site.runs_dir / "elsewhere", arms=["facts"], seed=5)
    page = site.page("/compare?run=first&run=second")
    assert "Of 80 rollouts that both runs scored" in page.words
    assert "only A is right" in page.words
    assert "replicas 1 2" in page.words
    assert "Rollouts are not paired" in site.page("/compare?run=first&run=elsewhere").words
    assert site.ask("/compare?run=first&run=nowhere")[0] == 404
    for chosen in ("", "run=first", "run=first&run=second&run=first"):
        status, body = site.ask(f"/compare?{chosen}")
        assert (status, "a comparison is of two" in body) == (409, True)


def test_hostile_text_is_text_on_every_page(site: Site) -> None:
    name = "<img src=x onerror=alert(1)>"
    arms = ["a<script>alert(1)</script>", 'b" onclick="alert(1)']
    run = write_report_run(site.runs_dir / name, arms=arms)
    unfinished = write_run(site.runs_dir / f"half {name}", arms=arms)
    unfinished.rollouts(1).unlink()
    address = f"/run/{quote(name)}"
    example = quote(pl.read_parquet(run.rollouts(0))["example_id"][0])
    pages = [
        *("/", address, f"{address}/rollouts", f"{address}/question?id={example}", f"/run/{quote(unfinished.run_id)}"),
        f"/compare?run=baseline&run={quote(name)}",
        f"{address}/rollouts?{urlencode({'arm': arms[1], 'text': HOSTILE[:90]})}",
        f"{address}/question?id={quote(HOSTILE[:90])}",
        f"/run/{quote(HOSTILE[:90])}",
        f"/{quote(HOSTILE[:90])}",
    ]
    for path in pages:
        body = site.ask(path)[1]
        page = Page(body)
        tags = [tag for tag, _ in page.elements]
        assert not {"iframe", "object", "embed", "base", "img"} & {*tags}, path
        assert (tags.count("script"), tags.count("style")) == (1, 1), path
        assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")], path
        hrefs = [attributes.get("href") or "#" for _, attributes in page.elements]
        assert all(href.startswith(("/run/", "#", "?")) or href in ("/", "data:,") for href in hrefs), path
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", body), path


def test_the_server_changes_no_file(site: Site) -> None:
    run = write_run(site.runs_dir / "run", arms=2)
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    for address in ADDRESSES[:4]:
        assert site.ask(address)[0] == 200
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before
