"""What can go wrong: for users of the client, and inside."""

from __future__ import annotations

import enum


class NotGranted(Exception):
    """The lock did not come free within the wait, or the request for it was deleted."""


class LockLost(Exception):
    """The lock is not held any more, though nobody has released it here."""


class ServerError(Exception):
    """The server cannot be reached, cannot do it now, or does not accept the request.

    ``status`` is that of its answer, if there was one.
    """

    def __init__(self, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.status = status


class Kind(enum.Enum):
    """What a failure of one request means."""

    UNREACHABLE = "no connection came about"
    MISCONFIGURED = "the URL or the certificates are wrong, which no other try mends"
    DROPPED = "the connection or the time ended before the answer was there"
    LATER = "the server did not do it, and may later"
    PROXY = "something on the way cannot do it now; whether the server has is not known"
    FOREIGN = "something that is no rdlm server has answered"
    GONE = "there is no such lock"
    REFUSED = "the server does not do it"


class Failure(Exception):
    """One request had no useful answer."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        status: int | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def may_pass(self) -> bool:
        """Whether it may go better with the next try."""
        return self.kind not in (Kind.GONE, Kind.REFUSED)

    @property
    def error(self) -> Exception:
        """What it is for whoever wanted a lock."""
        if self.kind is Kind.GONE:
            return NotGranted("the lock expired before it was known that it was granted")
        if self.kind is Kind.REFUSED and self.status in (408, 409):
            return NotGranted(str(self))
        return ServerError(str(self), self.status)

    @property
    def may_have_been_done(self) -> bool:
        """Whether the server may have done what it was asked for, all the same."""
        return self.kind in (Kind.DROPPED, Kind.PROXY, Kind.FOREIGN)
