"""The requests of the API, to a server or to several of which any will do."""

from __future__ import annotations

import dataclasses
import json
import re
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._answers import body_of, elsewhere
from ._clock import clock
from ._errors import Failure, Kind
from ._http import Address, Connection, Request, exchange
from ._urls import address_of, showable

# What stays as it is in the path of a URL.
IN_PATH = ".:~@_-"


@dataclass(frozen=True)
class Ask:
    """What is asked for."""

    resource: str
    title: str
    wait_s: float
    lifetime_s: float
    mode: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Lease:
    """A lock that was granted: where it is, its fencing token, and how long it lives."""

    url: str
    path: str
    token: int
    lifetime_s: float


@dataclass(frozen=True)
class Server:
    """Where one is, and the Authorization that it is told with each request."""

    address: Address
    authorization: str | None = dataclasses.field(repr=False)


class Servers:
    """Those that can be asked. A request goes to the one that answered last; if it cannot be
    reached, says that it cannot do it now, or its answer is lost, the next try goes to the next.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        # Threads may differ about it for a moment, which does no harm.
        self._current = 0

    def __len__(self) -> int:
        return len(self._servers)

    def __str__(self) -> str:
        return ",".join(server.address.url for server in self._servers)

    def ask(
        self, ask: Ask, key: str, wait_s: float, answer_s: float, connection: Connection
    ) -> Lease:
        """Asks for a lock once. The answer comes when it is granted or the wait is over."""
        fields = {
            "title": ask.title,
            "wait": wait_s,
            "lifetime": ask.lifetime_s,
            "mode": ask.mode,
            "limit": ask.limit,
        }
        body = {name: value for name, value in fields.items() if value is not None}
        path = _path(ask)
        request = _request("POST", path, 201, body, {"Idempotency-Key": key})
        url, granted = self._send(request, wait_s + answer_s, connection)
        uid, token = granted.get("uid"), granted.get("fencing_token")
        is_uid = isinstance(uid, str) and re.fullmatch("[0-9a-f]{32}", uid)
        if not is_uid or not isinstance(token, int):
            raise _names_no_lock(url)
        lifetime_s = _lifetime_s(granted, ask.lifetime_s)
        return Lease(f"{url}{path}/{uid}", f"{path}/{uid}", token, lifetime_s)

    def withdraw(self, ask: Ask, key: str, answer_s: float, connection: Connection) -> None:
        """Releases what a request with this key has: its place in line, or the lock; asks once."""
        request = _request("DELETE", _path(ask), 204, None, {"Idempotency-Key": key})
        self._send(request, answer_s, connection)

    def renew(
        self, lease: Lease, lifetime_s: float, answer_s: float, connection: Connection
    ) -> float:
        """Lets a lock live for its lifetime from now on; asks once. Returns how long it lives."""
        request = _request("PATCH", lease.path, 200, {"lifetime": lifetime_s})
        url, renewed = self._send(request, answer_s, connection)
        if renewed.get("uid") != lease.path.rpartition("/")[2]:
            raise _names_no_lock(url)
        return _lifetime_s(renewed, lifetime_s)

    def convert(
        self, lease: Lease, mode: str, wait_s: float, answer_s: float, connection: Connection
    ) -> None:
        """Converts a lock to another mode once it fits; asks once."""
        request = _request("PATCH", lease.path, 200, {"mode": mode, "wait": wait_s})
        url, converted = self._send(request, wait_s + answer_s, connection)
        if converted.get("uid") != lease.path.rpartition("/")[2]:
            raise _names_no_lock(url)

    def release(self, lease: Lease, answer_s: float, connection: Connection) -> None:
        """Asks once."""
        self._send(_request("DELETE", lease.path, 204), answer_s, connection)

    def _send(
        self, request: Request, answer_s: float, connection: Connection
    ) -> tuple[str, dict[str, Any]]:
        """Returns the URL of the server that has said yes, and the body."""
        index = self._current
        try:
            return self._send_to(self._servers[index], request, answer_s, connection)
        except Failure as failure:
            if failure.may_pass:
                self._current = (index + 1) % len(self._servers)
            raise

    def _send_to(
        self, server: Server, request: Request, answer_s: float, connection: Connection
    ) -> tuple[str, dict[str, Any]]:
        deadline = clock() + answer_s
        answer = exchange(server.address, _authorized(request, server), answer_s, connection)
        there = elsewhere(answer, request.path)
        if there is not None:
            server = self._server_at(there, server)
            left_s = deadline - clock()
            answer = exchange(server.address, _authorized(request, server), left_s, connection)
        url = server.address.url
        return url, body_of(answer, url, request.expected)

    def _server_at(self, url: str, asked: Server) -> Server:
        """One of these; or another one, which is not told what they are told."""
        for server in self._servers:
            if server.address.url == url:
                return server
        try:
            address = server_at(url, asked.address.tls).address
        except ValueError:
            address = None
        # What was meant for https:// is not said over http://.
        if address is None or (address.tls is None) != (asked.address.tls is None):
            raise Failure(Kind.FOREIGN, f"{asked.address.url} redirects to {showable(url)}")
        return Server(address, None)


def server_at(url: str, tls: ssl.SSLContext | None, authorization: str | None = None) -> Server:
    """A name and a password in the URL are for this server, unless there is another authorization.

    Raises ValueError, with nothing of the URL in it.
    """
    address, own = address_of(url, tls)
    return Server(address, authorization or own)


def _path(ask: Ask) -> str:
    return "/locks/" + urllib.parse.quote(ask.resource, safe=IN_PATH)


def _lifetime_s(lock: dict[str, Any], asked_s: float) -> float:
    """How long a lock lives: what was asked for, or less if the server says so."""
    said = lock.get("lifetime")
    return said if isinstance(said, (int, float)) and 0 < said < asked_s else asked_s


def _names_no_lock(url: str) -> Failure:
    return Failure(Kind.FOREIGN, f"{url} is no rdlm server: its answer does not name the lock")


def _request(
    method: str,
    path: str,
    expected: int,
    body: Mapping[str, object] | None = None,
    extra: Mapping[str, str] | None = None,
) -> Request:
    headers = {"Accept": "application/hal+json", "User-Agent": "rdlm_client", **(extra or {})}
    if body is None:
        return Request(method, path, headers, b"", expected)
    headers["Content-Type"] = "application/json"
    return Request(method, path, headers, json.dumps(body).encode("ascii"), expected)


def _authorized(request: Request, server: Server) -> Request:
    if server.authorization is None:
        return request
    headers = {**request.headers, "Authorization": server.authorization}
    return dataclasses.replace(request, headers=headers)
