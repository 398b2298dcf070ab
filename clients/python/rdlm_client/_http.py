"""One HTTP exchange: a request is sent on a connection of its own, and the answer is read.

Nothing is kept open between requests. So there is no connection that has gone stale, that two
threads would use, or that a forked child would share.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, cast

from ._clock import clock
from ._errors import Failure, Kind
from ._names import addresses_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# How long a connection may take to come about.
CONNECT_S = 5.0

# An answer that is longer is none of rdlm.
MAX_BODY_BYTES = 1 << 20

# A socket's own time-out cannot be longer than some days; a wait for a lock can.
MAX_SOCKET_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Address:
    """Where a server is: its URL, taken apart. There are no credentials in it."""

    url: str
    host: str
    port: int
    authority: str
    path: str
    tls: ssl.SSLContext | None


@dataclass(frozen=True)
class Request:
    """What is sent, wherever."""

    method: str
    path: str
    # May have an Authorization.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes
    # The status of the answer that says yes.
    expected: int


@dataclass(frozen=True)
class Answer:
    """Status, header fields and body."""

    status: int
    headers: Message
    body: bytes


class Connection:
    """The connection of one exchange after the other, which another thread can cut."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._socket: socket.socket | None = None
        self._tell: Callable[[], object] | None = None
        self._is_cut = False

    @property
    def is_cut(self) -> bool:
        return self._is_cut

    def cut(self) -> None:
        """Ends the exchange that is going on, and lets no other begin."""
        with self._mutex:
            self._is_cut = True
            self._shut_down()
            if self._tell is not None:
                self._tell()

    @contextlib.contextmanager
    def cuts(self, tell: Callable[[], object]) -> Iterator[None]:
        """In this block, nothing is waited for but what this function ends, when it is cut."""
        with self._mutex:
            self._tell = tell
            if self._is_cut:
                tell()
        try:
            yield
        finally:
            self._tell = None

    def adopt(self, new: socket.socket) -> None:
        """From now on, this is the socket to cut, and to close."""
        with self._mutex:
            if self._socket is not None:
                self._socket.close()
            self._socket = new
            if self._is_cut:
                raise ConnectionAbortedError("it was cut")

    def close(self) -> None:
        with self._mutex:
            self._shut_down()
            if self._socket is not None:
                self._socket.close()
            self._socket = None

    def _shut_down(self) -> None:
        # Closing alone would not tell the server while a forked child has the socket, too. By the
        # class, since the method of a TLS socket takes it apart under the thread that reads.
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def exchange(address: Address, request: Request, within_s: float, connection: Connection) -> Answer:
    """Sends a request and returns the answer, whatever that is.

    Raises `Failure`: unreachable, dropped, or foreign if the answer is not HTTP.
    """
    deadline = clock() + within_s
    try:
        connected = _connect(address, deadline, connection)
        connected.settimeout(_until(deadline))
        connected.sendall(_bytes(address, request))
        return _read(connected, request.method, deadline)
    except socket.timeout as error:
        detail = f"{address.url} does not answer within {within_s:.1f} s"
        raise Failure(Kind.DROPPED, detail) from error
    except (RemoteDisconnected, IncompleteRead) as error:
        detail = f"{address.url} ended the connection without an answer"
        raise Failure(Kind.DROPPED, detail) from error
    except OSError as error:
        detail = f"the connection to {address.url} broke: {error}"
        raise Failure(Kind.DROPPED, detail) from error
    except (HTTPException, ValueError) as error:
        detail = f"{address.url} is no rdlm server: its answer is not HTTP"
        raise Failure(Kind.FOREIGN, detail) from error
    finally:
        connection.close()


def _bytes(address: Address, request: Request) -> bytes:
    fields = {
        "Host": address.authority,
        "Connection": "close",
        "Content-Length": str(len(request.body)),
        **request.headers,
    }
    lines = [f"{request.method} {address.path}{request.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + request.body


def _connect(address: Address, deadline: float, connection: Connection) -> socket.socket:
    deadline = min(deadline, clock() + CONNECT_S)
    try:
        connected = _reach(address, deadline, connection)
        if address.tls is None:
            return connected
        secured = address.tls.wrap_socket(
            connected, server_hostname=address.host, do_handshake_on_connect=False
        )
        connection.adopt(secured)
        secured.settimeout(_until(deadline))
        secured.do_handshake()
        return secured
    except ssl.SSLCertVerificationError as error:
        detail = f"{address.url} is not to be trusted: {_advice(error)}"
        raise Failure(Kind.MISCONFIGURED, detail) from error
    except ssl.SSLError as error:
        if error.reason not in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            raise Failure(Kind.UNREACHABLE, f"cannot reach {address.url}: {error}") from error
        detail = f"{address.url} does not speak TLS: use http://"
        raise Failure(Kind.MISCONFIGURED, detail) from error
    except socket.gaierror as error:
        # Others, as EAI_AGAIN, may pass: a host that boots has no name server yet.
        is_unknown = error.errno == socket.EAI_NONAME
        kind = Kind.MISCONFIGURED if is_unknown else Kind.UNREACHABLE
        raise Failure(kind, f"cannot reach {address.url}: {error.strerror}") from error
    except (OSError, UnicodeError) as error:
        detail = f"cannot reach {address.url}: {error}"
        raise Failure(Kind.UNREACHABLE, detail) from error


# OpenSSL's X509_V_ERR_…: the issuer is not known, or the certificate is its own.
UNKNOWN_AUTHORITY = (18, 19, 20, 21)


def _advice(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in UNKNOWN_AUTHORITY:
        return "its certificate is by an authority that is not trusted here: use ca_file"
    return error.verify_message


def _reach(address: Address, deadline: float, connection: Connection) -> socket.socket:
    """Tries one address of the host after the other; those left share the time that is left."""
    found = addresses_of(address.host, address.port, _until(deadline), connection.cuts)
    failure = OSError("its name has no address")
    for index, (family, kind, protocol, _, target) in enumerate(found):
        attempt = socket.socket(family, kind, protocol)
        connection.adopt(attempt)
        attempt.settimeout(_until(deadline) / (len(found) - index))
        try:
            attempt.connect(target)
        except OSError as error:
            failure = error
        else:
            _notice_a_dead_host(attempt)
            return attempt
    raise failure


def _notice_a_dead_host(connected: socket.socket) -> None:
    """A host that says nothing is asked after 10 s, and given up after 40."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _read(connected: socket.socket, method: str, deadline: float) -> Answer:
    incoming = cast(socket.socket, _Incoming(connected, deadline))
    with HTTPResponse(incoming, method=method) as response:
        response.begin()
        body = response.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException("the body is too long")
        return Answer(response.status, response.headers, body)


class _Incoming(io.RawIOBase):
    """What comes from a socket until a deadline, however slowly it comes."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        super().__init__()
        self._socket = connected
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What an HTTPResponse asks its socket for."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while True:
            self._socket.settimeout(_until(self._deadline))
            try:
                return self._socket.recv_into(buffer)
            except socket.timeout:
                if clock() >= self._deadline:
                    raise


def _until(deadline: float) -> float:
    """The time-out of a socket."""
    left = deadline - clock()
    if left <= 0:
        raise socket.timeout("the time is over")
    return min(left, MAX_SOCKET_TIMEOUT_S)
