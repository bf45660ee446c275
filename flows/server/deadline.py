"""A process that ends its parent some seconds after a signal, if the parent has not ended by itself.

A thread of the parent cannot always do that: it does not run while a library keeps the interpreter's lock, as a
tokenizer does for seconds. This file is run as a script, ``deadline.py PARENT SECONDS LAST_WORDS``, and imports nothing
of ours, so it starts in 20 ms. Its standard input is a socket to which the parent's interpreter writes the number of
each signal.
"""

import os
import signal
import socket
import sys
import time

SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
"""The signals that ask a process to end."""
POLL_SECONDS = 0.05


def await_request(signals: socket.socket) -> bool:
    """Wait until one of SIGNALS comes first in ``signals``, and leave it there. Return False when the writer ends.

    Other signals are left to the parent's own thread, which takes them away.
    """
    while number := signals.recv(1, socket.MSG_PEEK):
        if number[0] in SIGNALS:
            return True
        time.sleep(POLL_SECONDS)
    return False


def _main() -> None:
    # not getppid(), which is another process once the parent has ended
    parent, seconds, last_words = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    for number in SIGNALS:
        # what is sent to the whole process group asks the parent to end, not this process
        signal.signal(number, signal.SIG_IGN)
    if not await_request(socket.socket(fileno=sys.stdin.fileno())):
        return
    deadline = time.monotonic() + seconds
    while os.getppid() == parent:
        if time.monotonic() >= deadline:
            sys.stderr.write(f"{last_words}\n")
            sys.stderr.flush()
            os.kill(parent, signal.SIGKILL)
            return
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    _main()
