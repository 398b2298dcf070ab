"""One lock, from the first request for it to its release, on a thread of its own.

The thread sends all that has to do with the lock, one request after the other. So no renewal races
the release, and no exchange is broken by an exception that a signal raises in the main thread.
Only a withdrawal and a conversion are sent beside it. While the lock is held, a second thread waits
for its loss, and tells it on time whatever the first one hangs in.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable

from ._clock import clock
from ._errors import Failure, Kind, LockLost
from ._http import Connection
from ._lost import Lost
from ._servers import Ask, Lease, Servers
from ._threads import Once, begin

# A request is sent again for so long, also if there is nothing to wait for.
TRIES_S = 2.0

# The shortest and the longest pause between tries; each is twice as long as the one before.
SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0

# How long a withdrawal may take if the server does not help.
WITHDRAWAL_S = 3.0

# How long to wait for the end of a request before it is withdrawn once more.
WITHDRAWN_S = 0.2

# An answer that took longer comes from behind something on the way.
AT_ONCE_S = 1.0

log = logging.getLogger("rdlm_client")


class Holder:
    """Asks for a lock, holds and releases it."""

    def __init__(self, servers: Servers, ask: Ask, answer_s: float) -> None:
        self.granted = Once()
        self.released = Once()
        self.lost = Lost()
        self._servers = servers
        self._ask = ask
        self._answer_s = answer_s
        self._key = uuid.uuid4().hex
        self._process = os.getpid()
        self._lease: Lease | None = None
        self._is_left = False
        # Of renewals and of the wait, not of the release.
        self._connection = Connection()
        # Of conversions, which end with the lock.
        self._conversions: set[Connection] = set()
        # The loss, if there was one in the block, was told.
        self._told = Once()
        # The word to stop. Of all queues, the one that a finalizer may use.
        self._words: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_stopped = False

    @property
    def resource(self) -> str:
        return self._ask.resource

    @property
    def lease(self) -> Lease:
        """The lock that was granted."""
        if self._lease is None:
            raise RuntimeError("the lock is not held yet: enter its block")
        return self._lease

    @property
    def is_of_this_process(self) -> bool:
        """Not in a forked child, which has a copy of this and no right to the lock."""
        return os.getpid() == self._process

    @property
    def release_s(self) -> float:
        """A release is over after so long, whatever the servers do, and however many there are."""
        return 2 * self._answer_s + 2 * TRIES_S

    def check(self) -> None:
        """Raises `LockLost` unless the lock is held."""
        if self.lost.is_set():
            raise LockLost(f"the lock on {self.resource} is lost: {self.lost.why}")
        if self._lease is None or self._is_left:
            raise LockLost(f"the lock on {self.resource} is not held outside of its block")

    def convert(self, mode: str, wait_s: float, connection: Connection) -> None:
        """Converts the lock, on the caller's thread: it is renewed meanwhile."""
        if not (0 <= wait_s < math.inf):
            raise ValueError("wait: expected seconds, 0 or more")
        if not self.is_of_this_process:
            raise RuntimeError("the lock is its parent's, which alone can convert it")
        # Before it is looked whether the lock is held: what is lost from now on cuts it.
        self._conversions.add(connection)
        try:
            self._convert(mode, clock() + wait_s, connection)
        finally:
            self._conversions.discard(connection)

    def _convert(self, mode: str, ends: float, connection: Connection) -> None:
        tries = Tries(len(self._servers))
        while True:
            self.check()
            sent = clock()
            wait_s = round(max(ends - sent, 0.0), 3)
            answer_s = tries.answer_s(self._answer_s, sent - ends)
            try:
                self._servers.convert(self.lease, mode, wait_s, answer_s, connection)
                return self.check()
            except Failure as error:
                failure = error
            self.check()
            if failure.kind is Kind.GONE:
                raise LockLost(f"the lock on {self.resource} is lost: it is gone")
            pause_s = tries.pause_s(failure)
            is_last = connection.is_cut or (pause_s > 0 and sent >= ends)
            if is_last or not failure.may_pass:
                raise failure.error
            log.info("the lock on %s is not converted yet: %s", self.resource, failure)
            self.lost.wait(min(pause_s, max(ends - clock(), 0.0)))

    def start(self, on_lost: Callable[[], object]) -> None:
        """Begins to ask; `granted` tells what becomes of it."""
        try:
            if sys.is_finalizing():
                raise RuntimeError("no lock can be taken while the interpreter ends")
            begin(functools.partial(self._run, on_lost))
        except RuntimeError as error:
            self.granted.happen(error)

    def leave(self) -> None:
        """Begins to release a lock that was granted; `released` tells when that is done.

        Then `lost` tells whether the lock was lost before.
        """
        self._is_left = True
        self.lost.end()
        self._words.put(None)
        if sys.is_finalizing():
            # The thread does not run any more, and may have stopped with a mutex.
            self._release(self.lease)
            self.released.happen()
        else:
            self._connection.cut()

    def abandon(self) -> None:
        """Has a lock released that nobody knows of any more. A finalizer may call this."""
        self._words.put(None)

    def withdraw(self) -> None:
        """Ends the wait, and leaves nothing on the server.

        To close the connection is not enough: by its key, the request keeps its place for a while.
        So what the key has is released, be it a place in line or, by now, the lock. The request may
        still be on its way: that it has been answered is the proof that nothing is left.
        """
        self._words.put(None)
        until = clock() + WITHDRAWAL_S
        tries = Tries(len(self._servers))
        try:
            while not self.granted.is_done() and clock() < until:
                answer_s = tries.share_s(until - clock())
                try:
                    self._servers.withdraw(self._ask, self._key, answer_s, Connection())
                except Failure as failure:
                    log.info("the request for %s is not withdrawn yet: %s", self.resource, failure)
                    if not tries.pause_s(failure):
                        continue
                self.granted.wait(WITHDRAWN_S)
        finally:
            # Also if somebody cannot wait for that: then the place is kept for a while, not for
            # the whole wait.
            self._connection.cut()
        if self.granted.is_done() and self.granted.error is None:
            # Granted in the last moment: the thread releases it.
            self.released.wait(until - clock())

    def _run(self, on_lost: Callable[[], object]) -> None:
        """The body of the thread."""
        try:
            lease = self._lease = self._acquire()
            begin(functools.partial(self._tell, on_lost))
        except BaseException as error:
            if self._lease is not None:
                self._release(self._lease)
            self.granted.happen(error)
            return
        self.granted.happen()
        try:
            self._hold(lease)
            self._release(lease)
            self._told.wait()
            self.released.happen()
        except BaseException as error:
            self.released.happen(error)

    def _acquire(self) -> Lease:
        """Asks, and again with what is left of the wait as long as it may help: by its key, the
        request has its place in line, or the lock, again.
        """
        begun = sent = clock()
        ends = begun + self._ask.wait_s
        last = max(ends, begun + TRIES_S)
        tries = Tries(len(self._servers))
        is_wrong_url = True
        told: set[Kind] = set()
        lease = None
        while True:
            try:
                wait_s = round(max(ends - sent, 0.0), 3)
                answer_s = tries.answer_s(self._answer_s, sent - last)
                lease = self._servers.ask(self._ask, self._key, wait_s, answer_s, self._connection)
                self._confirm(lease, begun)
                return lease
            except Failure as failure:
                # A wrong URL is answered at once; who took longer has passed the request on.
                at_once = clock() - sent < AT_ONCE_S
                is_wrong_url = is_wrong_url and failure.kind is Kind.FOREIGN and at_once
                until = begun + TRIES_S if is_wrong_url else last
                pause_s = tries.pause_s(failure)
                # The last try is one that is sent when the wait is over.
                is_refused = failure.kind is not Kind.GONE and tries.is_vain(failure)
                is_last = is_refused or (pause_s > 0 and sent >= until)
                if not is_last and not self._stops_before(min(clock() + pause_s, until)):
                    level = logging.INFO if failure.kind in told else logging.WARNING
                    told.add(failure.kind)
                    log.log(level, "the request for %s is sent again: %s", self.resource, failure)
                    sent = clock()
                    continue
                if lease is not None and failure.kind is not Kind.GONE:
                    self._release(lease)
                raise failure.error from None

    def _confirm(self, lease: Lease, asked: float) -> None:
        """Notes until when the lock is held.

        It lives for its lifetime from its grant, which may have been any time since it was asked
        for. If that is long ago, it is renewed before anything else.
        """
        lifetime_s = lease.lifetime_s
        if clock() - asked >= lifetime_s / 3:
            asked = clock()
            answer_s = min(self._answer_s, lifetime_s)
            lifetime_s = self._servers.renew(lease, lifetime_s, answer_s, self._connection)
        self.lost.renewed(asked + lifetime_s)

    def _hold(self, lease: Lease) -> None:
        """Renews the lock at a third of its lifetime until it is told to stop.

        A server that does not answer is given up after another third, or sooner if there are so
        many that not all of them would be asked before the end.
        """
        lifetime_s = self._ask.lifetime_s
        third_s = lease.lifetime_s / 3
        due = self.lost.until - 2 * third_s
        tries = Tries(len(self._servers))
        while not self._stops_before(min(due, self.lost.until)):
            if self.lost.is_set():
                break
            sent = clock()
            answer_s = min(self._answer_s, third_s, tries.share_s(self.lost.until - sent))
            try:
                lived_s = self._servers.renew(lease, lifetime_s, answer_s, self._connection)
            except Failure as failure:
                if failure.kind is Kind.GONE:
                    self.lost.lose(str(failure))
                    break
                log.info("the lock on %s is not renewed: %s", self.resource, failure)
                due = clock() + min(tries.pause_s(failure), third_s)
            else:
                self.lost.renewed(sent + lived_s)
                third_s = lived_s / 3
                due = sent + third_s
                tries = Tries(len(self._servers))
        self._stops_before(math.inf)

    def _tell(self, on_lost: Callable[[], object]) -> None:
        """The body of the second thread: tells that the lock is lost."""
        self.lost.wait()
        # What waits for a mode of a lock that is lost, or left, waits for nothing.
        for conversion in tuple(self._conversions):
            conversion.cut()
        if self.lost.in_block:
            try:
                on_lost()
            except BaseException:
                # An exit, too, would end this thread and nothing else.
                log.exception("on_lost of the lock on %s failed", self.resource)
            log.warning("the lock on %s is lost: %s", self.resource, self.lost.why)
        self._told.happen()

    def _release(self, lease: Lease) -> None:
        """Releases the lock. What cannot be released expires by itself.

        A lock that is lost may still be there, if the answer to a renewal was lost.
        """
        self.lost.over()
        was_lost = may_be_done = self.lost.is_set()
        until = clock() if was_lost else clock() + TRIES_S
        # After its lifetime it is not there any more, so nothing has to be waited for.
        longest_s = min(self._answer_s, lease.lifetime_s, TRIES_S if was_lost else math.inf)
        tries = Tries(len(self._servers))
        while True:
            sent = clock()
            answer_s = tries.answer_s(longest_s, sent - until)
            try:
                return self._servers.release(lease, answer_s, Connection())
            except Failure as failure:
                if failure.kind is Kind.GONE:
                    if not may_be_done:
                        self.lost.lose("it was gone when it was to be released")
                    return None
                may_be_done = may_be_done or failure.may_have_been_done
                pause_s = tries.pause_s(failure)
                if not failure.may_pass or (pause_s > 0 and sent >= until):
                    words = "the lock on %s is not released, it expires: %s"
                    log.warning(words, self.resource, failure)
                    return None
                log.info("the lock on %s is not released yet: %s", self.resource, failure)
                time.sleep(min(pause_s, max(until - clock(), 0.0)))

    def _stops_before(self, until: float) -> bool:
        """Waits until then, or until it is told to stop; tells whether it was."""
        if not self._is_stopped:
            left_s = min(max(until - clock(), 0.0), threading.TIMEOUT_MAX)
            try:
                self._words.get(timeout=left_s)
                self._is_stopped = True
            except queue.Empty:
                pass
        return self._is_stopped


class Tries:
    """How one request is sent to one server after the other until one of them answers.

    There is no pause between tries until each server was asked, then longer and longer ones.
    """

    def __init__(self, servers: int) -> None:
        self._servers = servers
        self._failures = 0
        self._misconfigured = 0
        self._pause_s = SHORTEST_PAUSE_S

    def is_vain(self, failure: Failure) -> bool:
        """Whether no other try can help: the server refuses, or all of them are misconfigured."""
        is_misconfigured = failure.kind is Kind.MISCONFIGURED
        self._misconfigured = self._misconfigured + 1 if is_misconfigured else 0
        return not failure.may_pass or self._misconfigured >= self._servers

    def pause_s(self, failure: Failure) -> float:
        """The pause after this failure."""
        self._failures += 1
        if self._failures % self._servers:
            return 0.0
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return max(pause_s, failure.retry_after_s)

    def share_s(self, left_s: float) -> float:
        """How long the next server has, if so much is left for all that are still to be asked."""
        return left_s / (self._servers - self._failures % self._servers)

    def answer_s(self, longest_s: float, late_s: float) -> float:
        """How long the next server has for its answer, so long after the time for tries was over.

        However many are silent, all of them cost no more than one that is asked twice.
        """
        return min(longest_s, self.share_s(max(2 * longest_s - max(late_s, 0.0), 0.0)))
