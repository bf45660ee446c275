"""A profile without an engine, for tests of what is around one."""

from pathlib import Path

FAKE_PROFILE = """
name = "fake"
description = "CPU, no engine"
model = "demo"
question_batch_size = 4
# an engine that a test holds has not stalled
stall_timeout_s = 1000000

[engine]
backend = "tests.support.fake_engines:FakeEngine"
dtype = "float32"
enforce_eager = true
kv_cache_space_gib = 1

[expect]
device = "cpu"
"""


def write_fake_profile(directory: Path, *, backend: str = "tests.support.fake_engines:FakeEngine") -> Path:
    path = directory / "fake.toml"
    path.write_text(FAKE_PROFILE.replace("tests.support.fake_engines:FakeEngine", backend), encoding="utf-8")
    return path
