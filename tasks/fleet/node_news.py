"""What a worker has to report, kept until the pool has seen it."""

import threading
from collections import deque
from typing import Any

from tasks.fleet.node_status import News, NodeStatus


class NodeNews:
    """The worker's state now, and its news. Safe from any thread."""

    def __init__(self) -> None:
        self.status = NodeStatus()
        self._changed = threading.Condition()
        self._news: deque[News] = deque()
        self._number = 0

    def tell(self, item: News) -> None:
        with self._changed:
            self._news.append(item)
            self._number += 1
            self._changed.notify_all()

    def set(self, **changes: Any) -> None:
        """Change fields of the state."""
        with self._changed:
            self.status = NodeStatus(**{**vars(self.status), **changes})
            self._changed.notify_all()

    def since(self, seen: int, wait_s: float) -> tuple[NodeStatus, int, tuple[News, ...]]:
        """Return the state, the number of the latest news, and the news after number ``seen``.

        Waits up to ``wait_s`` seconds for news or another state.
        """
        with self._changed:
            while self._news and self._number - len(self._news) < seen:
                self._news.popleft()
            state = self.status.state
            self._changed.wait_for(lambda: bool(self._news) or self.status.state != state, wait_s)
            return self.status, self._number, tuple(self._news)
