"""After real runs with known credentials, no secret is in the logs, Prefect's database or the run directory."""

import base64
import json
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import polars as pl
import pytest

from tasks.storage.verify import verify_upload
from tests.support.fake_profile import write_fake_profile
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.forked_harvest import harvest_forked
from tests.support.harvest_command import Outcome
from tests.support.leaks import contents, files, find_leaks, forms
from tests.support.prefect_blocks import aws_block, make_block
from tests.support.s3_servers import Bucket

pytestmark = pytest.mark.slow


@dataclass(kw_only=True)
class Scene:
    """One runs directory, one pair of secrets, and everything that the commands said."""

    folder: Path
    api: str
    bucket: Bucket
    proxy: FaultProxy
    texts: list[str] = field(default_factory=list)
    secret: str = field(default_factory=lambda: f"Dummy/{uuid.uuid4().hex}+of?the&run")
    token: str = field(default_factory=lambda: f"Token/{uuid.uuid4().hex}+{uuid.uuid4().hex}==")

    @property
    def database(self) -> Path:
        """Where the Prefect server keeps everything of its own."""
        with urlopen(f"{self.api}/admin/settings") as answer:
            return Path(json.load(answer)["home"])

    def run(self, *options: str, **variables: str) -> Outcome:
        """``harvest run`` that says as much as it can."""
        outcome = harvest_forked(
            self.api,
            *("run", "--profile", write_fake_profile(self.folder), "--questions", "4", "--shard-size", "2"),
            *("--max-tokens", "8", "--runs-dir", self.folder / "runs", "--json", "--verbose", *options),
            cwd=self.folder,
            HOME=str(self.folder / "home"),
            PREFECT_HOME=str(self.folder / "prefect"),
            PREFECT_LOGGING_LEVEL="DEBUG",
            **variables,
        )
        self.texts += [outcome.stdout, outcome.stderr]
        return outcome

    def from_environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "AKIAOFTHERUN",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_SESSION_TOKEN": self.token,
            "AWS_ENDPOINT_URL": self.proxy.endpoint,
        }

    def block(self, kind: str) -> str:
        """The name of a new block, as it is given to the command."""
        fields = {
            "aws_access_key_id": "AKIAOFTHERUN",
            "aws_secret_access_key": self.secret,
            "region_name": "us-east-1",
            "aws_client_parameters": {"endpoint_url": self.proxy.endpoint},
        }
        if kind == "aws-credentials":
            return aws_block(self.api, **fields)
        return f"{kind}/{make_block(self.api, kind, {'value': {**fields, 'aws_session_token': self.token}})}"

    def leaks(self) -> list[str]:
        return find_leaks((self.secret, self.token), (self.folder, self.database), self.texts)

    def is_in_the_database(self, text: str) -> bool:
        return any(text.encode() in data for path in files((self.database,)) for _, data in contents(path))


@pytest.fixture
def scene(bucket: Bucket, prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable)
    with fault_proxy(bucket.server.endpoint) as proxy:
        yield Scene(folder=tmp_path, api=prefect_api, bucket=bucket, proxy=proxy)


def check_uploaded(scene: Scene, outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in scene.from_environment().items():
        monkeypatch.setenv(variable, value)
    assert verify_upload(f"{scene.bucket.url}/{outcome.report['run_id']}").ok


def test_no_secret_of_the_environment_or_of_a_block_is_found_after_runs_that_fail_and_one_that_completes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = scene.run("--upload", "s3://no-such-bucket-here/x", **scene.from_environment())
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "The bucket does not exist" in wrong.stderr

    name = scene.block("aws-credentials")
    scene.proxy.faults.append(Fault(kind="403", method="PUT", path="rollouts/shard-00001", times=99))
    denied = scene.run("--upload", scene.bucket.url, "--aws-credentials-block", name)
    assert denied.code == 1
    assert "rollouts/shard-00001.parquet failed" in denied.stderr
    assert not any(key.endswith("_SUCCESS") for key in scene.bucket.listing())
    # the exception and its traceback have reached the server, and so has the block's name
    assert scene.is_in_the_database("s3:AbortMultipartUpload")
    assert scene.is_in_the_database(name)

    # each of these is retried, with a warning that quotes the failure
    scene.proxy.faults[:] = [
        Fault(kind="503", method="PUT", path="rollouts/shard-00001", times=2),
        Fault(kind="reset", method="PUT", path="report.json", times=1),
    ]
    given = ("--upload", scene.bucket.url, "--aws-credentials-block", scene.block("secret"))
    outcome = scene.run(*given, **scene.from_environment())
    assert outcome.code == 0, outcome.stderr
    assert sum(fault.hits for fault in scene.proxy.faults) > 3

    assert scene.is_in_the_database(scene.bucket.url)
    assert scene.leaks() == []
    check_uploaded(scene, outcome, monkeypatch)


def test_the_search_finds_what_is_hidden(tmp_path: Path) -> None:
    secret = "Dummy/secret+that?must&be found"
    for form in forms(secret):
        assert find_leaks([secret], [], [f"x{form.decode()}y"]) == ["text 0"]
    for before in range(5):
        hidden = base64.b64encode(b"x" * before + secret.encode() + b"after").decode()
        assert find_leaks([secret], [], [hidden]) == ["text 0"]
    database = sqlite3.connect(tmp_path / "some.db")
    database.execute("PRAGMA page_size = 512")
    database.execute("CREATE TABLE t (c TEXT)")
    database.executemany("INSERT INTO t VALUES (?)", [("x" * n + secret,) for n in range(480, 500)])
    database.commit()
    database.close()
    pl.DataFrame({"c": [secret * 9]}).write_parquet(tmp_path / "some.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "log").write_bytes(b"\xff" + secret.encode())
    where = {leak.removeprefix(f"{tmp_path}/") for leak in find_leaks([secret], [tmp_path], [])}
    assert {"some.db (rows)", "some.parquet (rows)", "folder/log (bytes)"} <= where
    assert find_leaks(["another"], [tmp_path], [secret]) == []
