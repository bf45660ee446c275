"""Fixtures that several test modules share."""

from tests.node_workers import node_api  # noqa: F401
from tests.prefect_server import prefect_api  # noqa: F401
from tests.s3_servers import any_bucket, bucket, ministack_server, moto_server, tls_bucket, tls_server  # noqa: F401
