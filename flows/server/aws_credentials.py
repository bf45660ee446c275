"""AWS credentials from a Prefect block, read in the task that uses them and handed to nobody.

A flow's parameter is the block's name alone. The document is read as the server keeps it, so that a worker needs no
``prefect-aws``: every Prefect server knows the type AWS Credentials. The type Secret holds the same fields as JSON.
"""

import json
from collections.abc import Mapping
from typing import Any

from httpx import RequestError
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from tasks.errors import ConfigError, UploadError
from tasks.storage.filesystems import Credentials, TransferSettings

AWS_TYPE, SECRET_TYPE = "aws-credentials", "secret"
_OWN_FIELDS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "profile_name": "profile",
    "region_name": "region",
}
_AWAY = (429, 500, 502, 503, 504)
_WAY_FIELDS = ("endpoint_url", "verify", "verify_cert_path", "config", "use_ssl", "api_version")


def transfer_of_flow_run(**settings: Any) -> TransferSettings:
    """``transfer_with`` the block that the current flow run's parameter ``aws_credentials_block`` names, if any."""
    return transfer_with(runtime.flow_run.parameters.get("aws_credentials_block"), **settings)


def transfer_with(block: str | None, **settings: Any) -> TransferSettings:
    """TransferSettings, with these settings, that take the credentials of ``block`` where one is named.

    For use within one task. Raises ConfigError for a block that does not exist or cannot be used.
    """
    if block is None:
        return TransferSettings(**settings)
    credentials = load_credentials(block)
    return TransferSettings(credentials=lambda: credentials, **settings)


def load_credentials(block: str) -> Credentials:
    """Read the block ``NAME`` (of the type AWS Credentials), ``aws-credentials/NAME`` or ``secret/NAME``.

    Raises ConfigError; its text has names of fields, never a value.
    """
    slug, _, name = block.rpartition("/")
    slug = slug or AWS_TYPE
    with get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(name, slug, include_secrets=True)
        except ObjectNotFound:
            raise ConfigError(
                f"the block {slug}/{name} does not exist on the Prefect server {client.api_url}. Create it there "
                "(Blocks, AWS Credentials), or correct aws_credentials_block"
            ) from None
        except (PrefectHTTPStatusError, RequestError) as error:
            away = isinstance(error, RequestError) or error.response.status_code in _AWAY
            raise UploadError(
                f"the block {slug}/{name} could not be read from the Prefect server {client.api_url} "
                f"({type(error).__name__}). Check that it runs and that PREFECT_API_KEY may read blocks",
                retryable=away,
            ) from None
    if slug == AWS_TYPE and document.data.get("aws_session_token"):
        # the type declares only the secret key as secret, so the event of saving the block quotes the token
        raise ConfigError(
            f"the block {slug}/{name} has an aws_session_token, which Prefect keeps in clear for this type of block. "
            "Put the same fields as JSON into a Secret block and give secret/NAME"
        )
    fields = document.data if slug == AWS_TYPE else _secret_fields(document.data, f"{slug}/{name}")
    return _credentials(fields, f"{slug}/{name}")


def _secret_fields(data: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    value = data.get("value")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    if not isinstance(value, dict):
        raise ConfigError(f"the block {label} holds no JSON object. Give it the fields {', '.join(_OWN_FIELDS)}")
    return value


def _credentials(fields: Mapping[str, Any], label: str) -> Credentials:
    given = {key: value for key, value in fields.items() if value not in (None, "", {})}
    way = given.pop("aws_client_parameters", {})
    if given.get("assume_role_arn"):
        raise ConfigError(
            f"the block {label} assumes a role, which ends within the hour. Put role_arn into a profile of the "
            "worker's AWS configuration and give the block its profile_name; such a role is renewed"
        )
    given.pop("assume_role_kwargs", None)
    if not isinstance(way, dict):
        raise ConfigError(f"aws_client_parameters of the block {label} is no object of {', '.join(_WAY_FIELDS)}")
    if unknown := sorted({*given} - {*_OWN_FIELDS}) + sorted({*way} - {*_WAY_FIELDS}):
        raise ConfigError(
            f"the block {label} has the field {unknown[0]}; known are {', '.join(_OWN_FIELDS)} and, in "
            f"aws_client_parameters, {', '.join(_WAY_FIELDS)}"
        )
    if wrong := [name for name in _OWN_FIELDS if not isinstance(given.get(name, ""), str)]:
        raise ConfigError(f"{wrong[0]} of the block {label} is no text")
    if ("aws_access_key_id" in given) != ("aws_secret_access_key" in given):
        raise ConfigError(
            f"the block {label} has only one of aws_access_key_id and aws_secret_access_key. Give it both, or neither "
            "for the worker's own"
        )
    return Credentials(
        **{ours: given[theirs] for theirs, ours in _OWN_FIELDS.items() if theirs in given},
        endpoint_url=way.get("endpoint_url"),
        verify=way.get("verify_cert_path") or way.get("verify", True),
        client_settings=way.get("config") or {},
    )
