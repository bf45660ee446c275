"""Blocks on a real Prefect server, made over its API as its UI makes them; `prefect-aws` is not needed."""

import uuid
from typing import Any

import httpx

from tests.support.patience import HTTP_SECONDS, pause, scaled


def make_block(api: str, slug: str, data: dict[str, Any]) -> str:
    """Store a block document of the type ``slug`` and return its name."""
    with httpx.Client(base_url=api, timeout=scaled(HTTP_SECONDS)) as client:
        kind = client.get(f"/block_types/slug/{slug}").raise_for_status().json()
        wanted = {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}}
        schema = client.post("/block_schemas/filter", json=wanted).raise_for_status().json()[0]
        name = f"store-{uuid.uuid4().hex[:8]}"
        document = {"name": name, "data": data, "block_type_id": kind["id"], "block_schema_id": schema["id"]}
        # SQLite is locked while the server is busy; Prefect's own client also tries again
        while (answer := client.post("/block_documents/", json=document)).status_code == 503:
            pause()
        answer.raise_for_status()
    return name


def aws_block(api: str, **fields: Any) -> str:
    return make_block(api, "aws-credentials", {name: value for name, value in fields.items() if value is not None})
