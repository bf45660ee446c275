"""Credentials from the blocks of a real Prefect server, used with real S3 servers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.collect import collect_rollouts
from flows.server.aws_credentials import load_credentials, transfer_of_flow_run, transfer_with
from tasks.errors import ConfigError, UploadError
from tasks.storage.destination import check_destination
from tasks.storage.filesystems import Credentials
from tasks.storage.upload import upload_run
from tasks.storage.verify import verify_upload
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import Tell
from tests.support.prefect_blocks import aws_block, make_block
from tests.support.prefect_server import free_port
from tests.support.s3_servers import Bucket
from tests.support.synthetic import write_run

KEY, SECRET, TOKEN = "AKIAOFTHEBLOCK", "secret/of+the/block", "token/of+the/block=="
PAIR = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}


@pytest.fixture(autouse=True)
def server(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # for a command in this process, which has imported Prefect
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield prefect_api


@pytest.fixture
def no_aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without S3 server and credentials. A test that uses a bucket must request the bucket first."""
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE", "AWS_REGION"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (PAIR, Credentials(access_key_id=KEY, secret_access_key=SECRET)),
        (
            {**PAIR, "region_name": "eu-west-1", "profile_name": None},
            Credentials(access_key_id=KEY, secret_access_key=SECRET, region="eu-west-1"),
        ),
        ({"profile_name": "team"}, Credentials(profile="team")),
        (
            {**PAIR, "aws_client_parameters": {"endpoint_url": "http://s3", "verify": False, "use_ssl": True}},
            Credentials(access_key_id=KEY, secret_access_key=SECRET, endpoint_url="http://s3", verify=False),
        ),
        (
            {"aws_client_parameters": {"verify_cert_path": "/ca.pem", "config": {"s3": {"addressing_style": "path"}}}},
            Credentials(verify="/ca.pem", client_settings={"s3": {"addressing_style": "path"}}),
        ),
    ],
)
def test_a_block_becomes_credentials(fields: dict[str, Any], expected: Credentials, server: str) -> None:
    assert load_credentials(aws_block(server, **fields)) == expected
    assert load_credentials(f"secret/{make_block(server, 'secret', {'value': fields})}") == expected


def test_a_session_token_is_read_only_from_a_secret_block(server: str) -> None:
    fields = {**PAIR, "aws_session_token": TOKEN}
    secret = make_block(server, "secret", {"value": json.dumps(fields)})
    expected = Credentials(access_key_id=KEY, secret_access_key=SECRET, session_token=TOKEN)
    assert load_credentials(f"secret/{secret}") == expected
    with pytest.raises(ConfigError, match=r"does not keep secret .* Secret block") as caught:
        load_credentials(aws_block(server, **fields))
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("slug", "data", "expected"),
    [
        ("aws-credentials", {"aws_secret_access_key": SECRET}, "only one of aws_access_key_id"),
        ("aws-credentials", {**PAIR, "assume_role_arn": "arn:aws:iam::1:role/x"}, "name that profile as profile_name"),
        (
            "aws-credentials",
            {**PAIR, "aws_client_parameters": {"proxy": SECRET}},
            "the unknown field proxy; the known ones are",
        ),
        ("secret", {"value": SECRET}, "holds no JSON object"),
        ("secret", {"value": f'"{SECRET}"'}, "holds no JSON object"),
        ("secret", {"value": {"secret": SECRET}}, "the unknown field secret; the known ones are aws_access_key_id"),
        (
            "secret",
            {"value": {**PAIR, "aws_session_token": [SECRET]}},
            "aws_session_token of the block .* must be a string",
        ),
        (
            "secret",
            {"value": {**PAIR, "aws_client_parameters": SECRET}},
            "must be an object with fields of endpoint_url",
        ),
    ],
)
def test_a_wrong_block_is_refused_without_quoting_its_values(
    slug: str, data: dict[str, Any], expected: str, server: str
) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        load_credentials(f"{slug}/{make_block(server, slug, data)}")
    assert SECRET not in str(caught.value)


def test_a_missing_block_is_refused(server: str) -> None:
    with pytest.raises(ConfigError, match=f"aws-credentials/nosuch does not exist on the Prefect server {server}"):
        load_credentials("nosuch")


def test_a_flow_whose_block_is_missing_writes_nothing(server: str, bucket: Bucket, tmp_path: Path) -> None:
    profile, runs = write_fake_profile(tmp_path), tmp_path / "runs"
    collect = collect_rollouts.with_options(retries=0)
    with pytest.raises(ConfigError, match="aws-credentials/nosuch does not exist"):
        collect(str(profile), questions=2, upload=bucket.url, aws_credentials_block="nosuch", runs_dir=str(runs))
    assert not runs.exists()
    assert bucket.listing() == []


def test_a_server_that_does_not_answer_is_a_retryable_error() -> None:
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(UploadError, match=r"could not be read from the Prefect server .*Check that it runs") as caught,
    ):
        load_credentials("any")
    assert caught.value.retryable


def test_a_block_is_enough_to_use_a_bucket(
    bucket: Bucket, no_aws_environment: None, server: str, tmp_path: Path, tell: Tell
) -> None:
    run = write_run(tmp_path / "run", shards=2)
    with pytest.raises(UploadError, match="or a Prefect block"):
        check_destination(bucket.url)
    block = aws_block(server, **PAIR, aws_client_parameters={"endpoint_url": bucket.server.endpoint})

    assert upload_run(run.root, bucket.url, transfer=transfer_with(block)).complete
    assert verify_upload(f"{bucket.url}/run", transfer_with(block)).ok
    checked = tell("verify", f"{bucket.url}/run", "--aws-credentials-block", block)
    assert checked.code == 0, checked.stderr
    options = ("--runs-dir", tmp_path / "runs", "--aws-credentials-block", block)
    compared = tell("compare", f"{bucket.url}/run", f"{bucket.url}/run", *options)
    assert compared.code == 0, compared.stderr
    exported = ("--to", "jsonl", "--out", f"{bucket.url}/exported")
    written = tell("export", f"{bucket.url}/run", *exported, *options)
    assert written.code == 0, written.stderr
    assert any("/exported/" in key for key in bucket.listing())


def test_a_block_can_name_the_certificate_authority(tls_bucket: Bucket, no_aws_environment: None, server: str) -> None:
    client = {"endpoint_url": tls_bucket.server.endpoint, "verify_cert_path": tls_bucket.server.ca_bundle}
    check_destination(tls_bucket.url, transfer_with(aws_block(server, **PAIR, aws_client_parameters=client)))
    del client["verify_cert_path"]
    with pytest.raises(UploadError, match="not trusted"):
        check_destination(tls_bucket.url, transfer_with(aws_block(server, **PAIR, aws_client_parameters=client)))


@pytest.mark.usefixtures("no_aws_environment")
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"profile_name": "nosuch"}, r"profile \(nosuch\) could not be found"),
        ({**PAIR, "aws_client_parameters": {"endpoint_url": "no url"}}, "Invalid endpoint: no url"),
        ({**PAIR, "region_name": "no region!"}, "doesn't match a supported format"),
        ({**PAIR, "aws_client_parameters": {"config": {"nosuch": SECRET}}}, "unexpected keyword argument 'nosuch'"),
    ],
)
def test_settings_that_the_s3_client_refuses_are_a_config_error(
    fields: dict[str, Any], expected: str, server: str
) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        check_destination("s3://bucket/x", transfer_with(aws_block(server, **fields)))
    assert "Correct the AWS settings" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_task_uses_the_block_of_its_flow_run(server: str) -> None:
    @task
    def key_in_a_task() -> str | None:
        transfer = transfer_of_flow_run()
        return transfer.credentials().access_key_id if transfer.credentials else None

    @flow
    def with_parameter(aws_credentials_block: str | None = None) -> str | None:
        return key_in_a_task.submit().result()

    @flow
    def without_parameter() -> str | None:
        return key_in_a_task.submit().result()

    assert with_parameter(aws_block(server, **PAIR)) == KEY
    assert with_parameter() is None
    assert without_parameter() is None


@pytest.mark.parametrize("given", [SECRET, "", "s3-bucket/store", "Store"])
def test_a_wrong_block_name_is_refused_and_not_repeated(given: str, tell: Tell) -> None:
    refused = tell("run", "--aws-credentials-block", given)
    assert refused.code == 2
    assert "--aws-credentials-block is not the name of a block" in refused.stderr
    assert SECRET not in refused.stderr
