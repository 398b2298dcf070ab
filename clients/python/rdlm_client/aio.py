"""Locks of an rdlm server, for asyncio.

>>> async with Client("http://locks:8888").lock("nightly-backup", wait=60, lifetime=30) as lock:
...     lock.check()  # raises LockLost if it is not held any more

Each lock has a thread of its own, which renews it also while the event loop is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from . import _lost
from ._base import BaseClient, Mode, Options, ask_for
from ._clock import clock
from ._errors import LockLost, NotGranted, ServerError
from ._holder import Holder, log
from ._http import Connection
from ._threads import Once, begin

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Client", "Lock", "LockLost", "Mode", "NotGranted", "ServerError"]

# Not each event loop knows longer timers.
MAX_TIMER_S = 3600.0

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


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
        """A lock that is taken when its ``async with`` block is entered, and released when it is
        left. A cancelled wait leaves no request on the server.

        :param wait: how many seconds to wait for it; 0: do not wait.
        :param lifetime: how many seconds it is held when renewals do not get through.
        :param mode: which other locks may be held beside it; ``"shared"`` for readers.
        :param limit: how many may hold it at a time.
        :param title: who asks and what for, for people; else the user, the host and the program.
        :param on_lost: called once, by the event loop, if the lock is lost in the block.
        """
        ask = ask_for(resource, wait, lifetime, mode, limit, title)
        return Lock(self._holder(ask), on_lost)

    def locked(self, resource: str, **options: Unpack[Options]) -> Callable[[F], F]:
        """A decorator: each call of the coroutine takes a lock of its own, with these options."""

        def decorate(function: F) -> F:
            if not inspect.iscoroutinefunction(function):
                raise TypeError("expected a coroutine function; rdlm_client is for others")

            @functools.wraps(function)
            async def with_lock(*args: Any, **kwargs: Any) -> Any:
                async with self.lock(resource, **options):
                    return await function(*args, **kwargs)

            return cast(F, with_lock)

        return decorate


class Lock:
    """A lock for one ``async with`` block."""

    _is_used = False

    def __init__(self, holder: Holder, on_lost: Callable[[], object] | None) -> None:
        self._holder = holder
        self._lost = Lost(holder.lost, on_lost)
        self._released: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Lock:
        if self._is_used:
            raise RuntimeError("a lock is for one block: ask the client for another one")
        self._is_used = True
        granted = _future_of(self._holder.granted)
        self._released = _future_of(self._holder.released)
        self._holder.start(self._lost.follow())
        try:
            await granted
            return self
        except BaseException:
            # Cancellation, too.
            if self._holder.granted.error is None:
                await _end_of(_begin(self._holder.withdraw))
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._holder.is_of_this_process or self._released is None:
            return
        self._lost.leave()
        self._holder.leave()
        try:
            await _end_of(self._released, self._holder.release_s)
        finally:
            self._lost.end()
        if self._released.done():
            self._released.result()
        else:
            log.warning("the lock on %s is still being released", self._holder.resource)
        if self._holder.lost.is_set() and error is None:
            self._holder.check()

    def __del__(self) -> None:
        # Nobody can leave it any more, as after a cancellation between `__aenter__` and the block.
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
        """``lost.is_set()`` tells whether the lock is lost, ``await lost.wait()`` waits for it."""
        return self._lost

    def check(self) -> None:
        """Raises `LockLost` unless the lock is held."""
        self._holder.check()

    async def convert(self, mode: Mode, *, wait: float = 0.0) -> None:
        """Converts the lock to another mode. It is held all the time, with the same token.

        Raises `NotGranted` if the mode does not fit within the wait, or if that would be waited for
        in vain: the lock is held as before. A cancelled wait leaves no request behind.

        :param wait: how many seconds to wait for the mode; 0: do not wait.
        """
        connection = Connection()
        converted = _begin(functools.partial(self._holder.convert, mode, wait, connection))
        try:
            await asyncio.wait([converted])
        except asyncio.CancelledError:
            connection.cut()
            await _end_of(converted)
            # What it says is nobody's business any more.
            converted.exception()
            raise
        converted.result()


class Lost:
    """Set when the lock is lost."""

    def __init__(self, lost: _lost.Lost, on_lost: Callable[[], object] | None) -> None:
        self._lost = lost
        self._on_lost = on_lost
        self._over: asyncio.Event | None = None
        self._is_left = False

    def is_set(self) -> bool:
        """Whether the lock is lost."""
        return self._lost.is_set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits until the lock is lost or released, or so many seconds are over.

        Tells whether it is lost.
        """
        if self._over is None:
            raise RuntimeError("the lock is not held yet: enter its block")
        ends = math.inf if timeout is None else clock() + timeout
        while not (self.is_set() or self._over.is_set() or clock() >= ends):
            left_s = min(self._lost.until, ends) - clock()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._over.wait(), min(max(left_s, 0.0), MAX_TIMER_S))
        return self.is_set()

    def follow(self) -> Callable[[], None]:
        """Returns what the thread is to call when the lock is lost."""
        loop = asyncio.get_running_loop()
        self._over = asyncio.Event()

        def tell() -> None:
            # The loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._tell)

        return tell

    def leave(self) -> None:
        """The block is left: a loss of which the loop has not told yet is not told any more, which
        might cancel what comes behind it.
        """
        self._is_left = True

    def end(self) -> None:
        """There is nothing to wait for any more."""
        if self._over is not None:
            self._over.set()

    def _tell(self) -> None:
        self.end()
        if self._on_lost is not None and not self._is_left:
            self._on_lost()


def _future_of(once: Once) -> asyncio.Future[None]:
    """What the loop can wait for; to be called before the thread starts in which it happens."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def happen() -> None:
        if future.done():
            return
        if once.error is None:
            future.set_result(None)
        else:
            future.set_exception(once.error)

    def tell() -> None:
        # The loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(happen)

    once.then(tell)
    return future


def _begin(function: Callable[[], None]) -> asyncio.Future[None]:
    """Runs a function on a thread of its own: those of the loop may all be busy."""
    once = Once()
    future = _future_of(once)

    def run() -> None:
        try:
            function()
            once.happen()
        except BaseException as error:
            once.happen(error)

    begin(run)
    return future


async def _end_of(future: asyncio.Future[None], timeout: float | None = None) -> None:
    """Waits until it is done, or for so many seconds; a cancellation meanwhile comes after that."""
    try:
        await asyncio.wait([future], timeout=timeout)
    except asyncio.CancelledError:
        await asyncio.wait([future], timeout=timeout)
        raise
