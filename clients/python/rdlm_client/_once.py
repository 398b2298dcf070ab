"""Something that happens once."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Once:
    """Something that happens once, on another thread, and may end with an error.

    In contrast to a `Future` or an `Event`, an exception that a signal raises in whoever waits
    cannot leave a mutex locked that the other thread needs.
    """

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
