"""Looks up the addresses of a host, within a time that Python has no option for.

A resolver may be silent for longer than a lock lives. So a look-up has a thread of its own, and who
asks waits only as long as they can. All that ask for one host share one look-up: there are never
more threads that hang than there are hosts.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
from contextlib import AbstractContextManager
from typing import Any, Callable, Union

from ._threads import begin

# What `getaddrinfo` returns, or what went wrong.
Addresses = list[tuple[Any, ...]]
Outcome = Union[Addresses, Exception]
# While it is entered, what it is given is called when the wait is cut.
Cuts = Callable[[Callable[[], None]], AbstractContextManager[None]]


def addresses_of(host: str, port: int, within_s: float, cuts: Cuts) -> Addresses:
    """Raises OSError or UnicodeError, as `getaddrinfo` does, or if the wait is cut."""
    with contextlib.suppress(socket.gaierror):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    if not _begin(host, port, found):
        found.put(_look_up(host, port))
    try:
        with cuts(lambda: found.put(ConnectionAbortedError("it was cut"))):
            outcome = found.get(timeout=within_s)
    except queue.Empty:
        raise socket.timeout(f"its name is not looked up within {within_s:.1f} s") from None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class _LookUps:
    """Those that are under way. Only threads of its own take its mutex: a signal's exception cannot
    leave it locked.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._asking: dict[tuple[str, int], list[queue.SimpleQueue[Outcome]]] = {}

    def run(self, host: str, port: int, found: queue.SimpleQueue[Outcome]) -> None:
        """The body of a thread: joins the look-up of this host, or is the one that does it."""
        with self._mutex:
            asking = self._asking.setdefault((host, port), [])
            asking.append(found)
            if len(asking) > 1:
                return
        outcome = _look_up(host, port)
        with self._mutex:
            del self._asking[host, port]
        for each in asking:
            each.put(outcome)


_look_ups = _LookUps()


def _forget() -> None:
    """In a forked child, where those threads do not run."""
    global _look_ups
    _look_ups = _LookUps()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _begin(host: str, port: int, found: queue.SimpleQueue[Outcome]) -> bool:
    """Whether there is a thread for it: not if the process has too many, or ends."""
    if sys.is_finalizing():
        return False
    look_ups = _look_ups
    try:
        begin(lambda: look_ups.run(host, port, found))
    except RuntimeError:
        return False
    return True


def _look_up(host: str, port: int) -> Outcome:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:
        return error
