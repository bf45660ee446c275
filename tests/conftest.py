"""Fixtures that several test modules share."""

import os

from tests.support.node_workers import node_api  # noqa: F401
from tests.support.prefect_server import prefect_api  # noqa: F401
from tests.support.s3_servers import any_bucket, bucket, ministack_server, moto_server, tls_bucket, tls_server  # noqa: F401

# two tests at a time on two cores: whatever computes with threads must not spin while it waits
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
