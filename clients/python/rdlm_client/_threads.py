"""Threads, and waiting for them, where a signal may raise an exception at any moment.

`threading.Thread` and `Event`, and a `Future`, are made of mutexes that such an exception can leave
locked in whoever starts a thread or waits for it, and that the other thread then waits for.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable


def begin(function: Callable[[], None]) -> None:
    """Runs a function on a thread of its own, which ends with the process."""
    _thread.start_new_thread(function, ())


class Once:
    """Something that happens once, on another thread, and may end with an error."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._is_done = False
        self._gate = threading.Lock()
        self._gate.acquire()
        self._then: Callable[[], None] | None = None

    def is_done(self) -> bool:
        return self._is_done

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it has happened, or for so many seconds; tells whether it has."""
        timeout = -1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)
        if not self._is_done and self._gate.acquire(timeout=timeout):
            # Whoever waits, too, is next.
            self._gate.release()
        return self._is_done

    def then(self, function: Callable[[], None]) -> None:
        """What is to be called behind it, on the same thread; to be said before that starts."""
        self._then = function

    def happen(self, error: BaseException | None = None) -> None:
        """It has happened; what comes later does not count."""
        if self._is_done:
            return
        self.error = error
        self._is_done = True
        self._gate.release()
        if self._then is not None:
            self._then()
