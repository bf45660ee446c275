"""Fake engines in a process without torch, which starts in a second."""

import tests.without_torch  # noqa: F401
from tests.fakes import FakeEngine as FakeEngine
from tests.fakes import GatedEngine as GatedEngine
