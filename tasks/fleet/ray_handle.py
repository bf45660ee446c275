"""Calls to a worker that is an actor of Ray, and what its errors mean."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tasks.fleet.cluster import NodeGone

CONCURRENCY = 16
"""Calls that a worker handles at the same time: one report, shards that come in, and fetches."""


class RayHandle:
    """An actor with a worker."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *given: Any, limit_s: float) -> Any:
        import ray

        with gone():
            return ray.get(getattr(self._actor, method).remote(*given), timeout=limit_s)

    def end(self) -> None:
        import ray

        with contextlib.suppress(Exception):
            ray.kill(self._actor)


@contextlib.contextmanager
def gone() -> Iterator[None]:
    """Make NodeGone of what Ray raises about an actor."""
    from ray import exceptions

    try:
        yield
    except exceptions.GetTimeoutError:
        raise NodeGone("it does not answer") from None
    except exceptions.RayTaskError as error:
        raise NodeGone(f"its worker failed: {error.cause!r}") from None
    except exceptions.RayError as error:
        raise NodeGone(_in_short(str(error))) from None
    except (RuntimeError, ValueError, ConnectionError) as error:
        # what Ray raises of a connection that is closing
        raise NodeGone(_in_short(str(error))) from None


def _in_short(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("class_name", "actor_id", "namespace", "ip", "pid"))]
    return " ".join(said)[:300].rstrip(".") or "it ended"
