"""Reads AWS credentials from a Prefect block. A task reads them for itself and passes them to nobody.

The flow's parameter is only the block's name. This module reads the block as the server stores it, so a worker does not
need ``prefect-aws``: every Prefect server knows the type AWS Credentials. A block of the type Secret holds the same
fields as JSON.
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
_CREDENTIAL_FIELDS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "profile_name": "profile",
    "region_name": "region",
}
_OUTAGE_STATUSES = (429, 500, 502, 503, 504)
_CLIENT_FIELDS = ("endpoint_url", "verify", "verify_cert_path", "config", "use_ssl", "api_version")


def transfer_of_flow_run(**settings: Any) -> TransferSettings:
    """Return ``transfer_with`` the block that the current flow run's parameter ``aws_credentials_block`` names."""
    return transfer_with(runtime.flow_run.parameters.get("aws_credentials_block"), **settings)


def transfer_with(block: str | None, **settings: Any) -> TransferSettings:
    """Return TransferSettings with ``settings`` and, if a ``block`` is named, its credentials. Use it in one task only.

    Raises ConfigError for a block that does not exist or cannot be used, UploadError when the server cannot be asked.
    """
    if block is None:
        return TransferSettings(**settings)
    credentials = load_credentials(block)
    return TransferSettings(credentials=lambda: credentials, **settings)


def load_credentials(block: str) -> Credentials:
    """Read a block, named as ``NAME`` (of the type AWS Credentials), ``aws-credentials/NAME`` or ``secret/NAME``.

    Raises ConfigError when the block cannot be used, and UploadError when the server cannot be asked. Messages name
    fields, never values.
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
            is_outage = isinstance(error, RequestError) or error.response.status_code in _OUTAGE_STATUSES
            raise UploadError(
                f"the block {slug}/{name} could not be read from the Prefect server {client.api_url} "
                f"({type(error).__name__}). Check that it runs and that PREFECT_API_KEY may read blocks",
                retryable=is_outage,
            ) from None
    if slug == AWS_TYPE and document.data.get("aws_session_token"):
        # this block type marks only the secret key as secret, so the event of saving the block quotes the token
        raise ConfigError(
            f"the block {slug}/{name} has an aws_session_token, which Prefect does not keep secret in this type of "
            "block. Put the same fields as JSON into a Secret block, and name that block as secret/NAME"
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
        raise ConfigError(
            f"the block {label} holds no JSON object. Give it an object with the fields {', '.join(_CREDENTIAL_FIELDS)}"
        )
    return value


def _credentials(fields: Mapping[str, Any], label: str) -> Credentials:
    given = {key: value for key, value in fields.items() if value not in (None, "", {})}
    client = given.pop("aws_client_parameters", {})
    if given.get("assume_role_arn"):
        raise ConfigError(
            f"the block {label} assumes a role, whose credentials expire within the hour. Put role_arn into a profile "
            "of the worker's AWS configuration and name that profile as profile_name in the block; it is then renewed"
        )
    given.pop("assume_role_kwargs", None)
    if not isinstance(client, dict):
        raise ConfigError(
            f"aws_client_parameters of the block {label} must be an object with fields of {', '.join(_CLIENT_FIELDS)}"
        )
    if unknown := sorted({*given} - {*_CREDENTIAL_FIELDS}) + sorted({*client} - {*_CLIENT_FIELDS}):
        raise ConfigError(
            f"the block {label} has the unknown field {unknown[0]}; the known ones are "
            f"{', '.join(_CREDENTIAL_FIELDS)} and, in aws_client_parameters, {', '.join(_CLIENT_FIELDS)}"
        )
    if wrong := [name for name in _CREDENTIAL_FIELDS if not isinstance(given.get(name, ""), str)]:
        raise ConfigError(f"{wrong[0]} of the block {label} must be a string")
    if ("aws_access_key_id" in given) != ("aws_secret_access_key" in given):
        raise ConfigError(
            f"the block {label} has only one of aws_access_key_id and aws_secret_access_key. Give it both, or neither "
            "to use the worker's own credentials"
        )
    return Credentials(
        **{ours: given[theirs] for theirs, ours in _CREDENTIAL_FIELDS.items() if theirs in given},
        endpoint_url=client.get("endpoint_url"),
        verify=client.get("verify_cert_path") or client.get("verify", True),
        client_settings=client.get("config") or {},
    )
