"""A request body costs no copy of its bytes."""

from tasks.storage.s3_object_store import RequestBody

DATA = b"rollouts" * 1000


def test_a_body_tells_its_size_without_a_copy() -> None:
    body = RequestBody(DATA)
    with body.getbuffer() as view:
        assert (len(view), view.obj is DATA) == (len(DATA), True)
