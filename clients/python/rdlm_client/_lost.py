"""Whether a lock is lost."""

from __future__ import annotations

import math

from ._clock import clock
from ._threads import Once


class Lost:
    """Set when the lock is lost, and never taken back.

    It tells by the clock, so it is right as soon as anything runs again after the process stood
    still; and to look takes no mutex, which somebody may have held when the process was forked.
    """

    def __init__(self) -> None:
        self._until = math.inf
        self._is_set = False
        self._has_ended = False
        self._was_lost = False
        self._why = "no renewal got through for its whole lifetime"
        # There is nothing to be waited for any more.
        self._over = Once()

    def is_set(self) -> bool:
        """Whether the lock is lost."""
        if not self._has_ended and clock() >= self._until:
            self._is_set = True
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the lock is lost or released, or so many seconds are over.

        Tells whether it is lost.
        """
        ends = math.inf if timeout is None else clock() + timeout
        while not (self.is_set() or self._over.is_done() or clock() >= ends):
            self._over.wait(min(self._until, ends) - clock())
        return self.is_set()

    @property
    def until(self) -> float:
        """When the lock is lost, on the clock, unless a renewal gets through."""
        return self._until

    @property
    def in_block(self) -> bool:
        """Whether the lock was lost before it was left: a release that finds it gone is too late
        to tell anybody.
        """
        return self._was_lost if self._has_ended else self.is_set()

    @property
    def why(self) -> str:
        return self._why

    def renewed(self, until: float) -> None:
        """The lock is held until then, unless it is lost by now: an answer that comes too late does
        not bring it back.
        """
        if not self.is_set():
            self._until = until

    def lose(self, why: str) -> None:
        self._why = why
        self._is_set = True
        self._over.happen()

    def end(self) -> None:
        """The lock is left: what was not lost by now is not lost by the clock any more.

        A signal's exception does no harm here.
        """
        if not self._has_ended:
            self._was_lost = self.is_set()
            self._has_ended = True

    def over(self) -> None:
        """The lock is left, which those who wait for its loss are to know."""
        self.end()
        self._over.happen()
