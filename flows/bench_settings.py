"""The names of a benchmark's contestants, and how much is measured unless it is asked for more."""

from tasks.peers.installed import FEATURES, LIMIT

PIPELINE = "pipeline"
CONTESTANTS = ("baseline", "script", LIMIT, FEATURES, PIPELINE)
DEFAULT_QUESTIONS = 100
DEFAULT_REPEATS = 3
MOST_REPEATS = 1_000
