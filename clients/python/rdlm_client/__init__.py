"""Locks of an rdlm server.

>>> with Client("http://locks:8888").lock("nightly-backup", wait=60, lifetime=30) as lock:
...     lock.check()  # raises LockLost if it is not held any more

``rdlm_client.aio`` has the same for asyncio.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ._base import BaseClient, Mode, Options, ask_for
from ._errors import LockLost, NotGranted, ServerError
from ._holder import Holder, log
from ._http import Connection
from ._lost import Lost

if TYPE_CHECKING:
    from typing_extensions import Unpack

__version__ = "1.0.0"
__all__ = ["Client", "Lock", "LockLost", "Mode", "NotGranted", "ServerError"]

F = TypeVar("F", bound=Callable[..., Any])

# How long a release may go on when a signal's exception ends the wait for it.
LAST_MOMENT_S = 1.0


class Client(BaseClient):
    __doc__ = BaseClient.__doc__

    def lock(
        self,
        resource: str,
        *,
        wait: float = 60.0,
        lifetime: float = 60.0,
        mode: Mode | None = None,
        limit: int | None = None,
        title: str | None = None,
        on_lost: Callable[[], object] | None = None,
    ) -> Lock:
        """A lock that is taken when its ``with`` block is entered, and released when it is left.

        :param wait: how many seconds to wait for it; 0: do not wait.
        :param lifetime: how many seconds it is held when renewals do not get through.
        :param mode: which other locks may be held beside it; ``"shared"`` for readers.
        :param limit: how many may hold it at a time.
        :param title: who asks and what for, for people; else the user, the host and the program.
        :param on_lost: called once, on the lock's own thread, if the lock is lost in the block.
        """
        ask = ask_for(resource, wait, lifetime, mode, limit, title)
        return Lock(self._holder(ask), on_lost or _nothing)

    def locked(self, resource: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """A decorator: each call of the function takes a lock of its own, with these options."""

        def decorate(function: F) -> F:
            if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                raise TypeError("expected a plain function; rdlm_client.aio is for coroutines")
            if inspect.isgeneratorfunction(function):
                raise TypeError("expected a plain function: a generator runs after its call")

            @functools.wraps(function)
            def with_lock(*args: Any, **kwargs: Any) -> Any:
                with self.lock(resource, **options):
                    return function(*args, **kwargs)

            return cast(F, with_lock)

        return decorate


class Lock:
    """A lock for one ``with`` block; any thread may look at it."""

    _is_used = False

    def __init__(self, holder: Holder, on_lost: Callable[[], object]) -> None:
        self._holder = holder
        self._on_lost = on_lost

    def __enter__(self) -> Lock:
        if self._is_used:
            raise RuntimeError("a lock is for one block: ask the client for another one")
        self._is_used = True
        try:
            self._holder.start(self._on_lost)
            self._holder.granted.wait()
            if self._holder.granted.error is not None:
                raise self._holder.granted.error
            return self
        except BaseException:
            # Ctrl-C, too.
            self._holder.withdraw()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._holder.is_of_this_process:
            return
        self._holder.leave()
        self._await_release()
        if self._holder.lost.is_set() and error is None:
            self._holder.check()

    def _await_release(self) -> None:
        released = self._holder.released
        try:
            released.wait(self._holder.release_s)
        except BaseException:
            # Ctrl-C, which would end the thread with the process.
            released.wait(LAST_MOMENT_S)
            raise
        if released.error is not None:
            raise released.error
        if not released.is_done():
            log.warning("the lock on %s is still being released", self._holder.resource)

    def __del__(self) -> None:
        # Nobody can leave it any more, as after an exception that a signal raised between
        # `__enter__` and the block.
        if self._is_used and self._holder.is_of_this_process:
            self._holder.abandon()

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every earlier grant."""
        return self._holder.lease.token

    @property
    def url(self) -> str:
        """Where the lock is. Whoever knows it can release the lock."""
        return self._holder.lease.url

    @property
    def lost(self) -> Lost:
        """``lost.is_set()`` tells whether the lock is lost, ``lost.wait(timeout)`` waits for it."""
        return self._holder.lost

    def check(self) -> None:
        """Raises `LockLost` unless the lock is held."""
        self._holder.check()

    def convert(self, mode: Mode, *, wait: float = 0.0) -> None:
        """Converts the lock to another mode. It is held all the time, with the same token.

        Raises `NotGranted` if the mode does not fit within the wait, or if that would be waited for
        in vain: the lock is held as before.

        :param wait: how many seconds to wait for the mode; 0: do not wait.
        """
        connection = Connection()
        try:
            self._holder.convert(mode, wait, connection)
        finally:
            # Ctrl-C, too, ends the wait.
            connection.cut()


def _nothing() -> None:
    pass
