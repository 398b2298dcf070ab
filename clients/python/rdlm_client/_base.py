"""What the clients for threads and for asyncio have in common."""

from __future__ import annotations

import getpass
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterable
from typing import Literal, TypedDict, Union

from ._credentials import authorization as authorization_of
from ._holder import Holder
from ._servers import Ask, Servers, server_at

# Which other locks may be held beside it.
Mode = Literal["NL", "CR", "CW", "PR", "PW", "EX", "shared", "exclusive"]

StrPath = Union[str, "os.PathLike[str]"]

MAX_TITLE_BYTES = 1024


class Options(TypedDict, total=False):
    """What a lock is asked for with, beside its resource."""

    wait: float
    lifetime: float
    mode: Mode | None
    limit: int | None
    title: str | None
    on_lost: Callable[[], object] | None


class BaseClient:
    """One rdlm server, or several of which any will do.

    It holds no connection and no thread: it may be shared by threads, and used in forked children.
    """

    def __init__(
        self,
        urls: str | Iterable[str] | None = None,
        *,
        user: str | None = None,
        password: str = "",
        token: str | None = None,
        ca_file: StrPath | None = None,
        cert_file: StrPath | None = None,
        key_file: StrPath | None = None,
        timeout: float = 10.0,
    ) -> None:
        """Opens no connection yet.

        :param urls: one, or several, also in one string with commas; else that of the environment
            variable ``RDLM_URL``, or http://localhost:8888. Each may have a name and a password.
        :param user: the name for HTTP Basic authentication, with its ``password``.
        :param token: a bearer token, in place of a name. Line ends behind it or a password are
            taken away.
        :param ca_file: certificates to trust, in PEM; else those of the system.
        :param cert_file: the certificate of this client, with its ``key_file``, in PEM.
        :param timeout: how many seconds an answer may take, beside the wait for a lock.
        """
        source = "urls"
        if urls is None:
            source, urls = "RDLM_URL", os.environ.get("RDLM_URL") or "http://localhost:8888"
        if isinstance(urls, str):
            urls = urls.split(",")
        urls = [url.strip() for url in urls]
        if not urls:
            raise ValueError("urls: expected the URL of a server")
        if not 0 < timeout < float("inf"):
            raise ValueError("timeout: expected seconds, more than 0")
        authorization = authorization_of(user, password, token)
        tls = None
        if any(url.lower().startswith("https:") for url in urls):
            tls = ssl.create_default_context(cafile=ca_file)
            if cert_file is not None:
                tls.load_cert_chain(cert_file, key_file)
        try:
            self._servers = Servers([server_at(url, tls, authorization) for url in urls])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._servers)!r})"

    def _holder(self, ask: Ask) -> Holder:
        return Holder(self._servers, ask, self._timeout)


def ask_for(
    resource: str,
    wait: float,
    lifetime: float,
    mode: Mode | None,
    limit: int | None,
    title: str | None,
) -> Ask:
    """Checks what the server cannot: its own limits, it tells by itself."""
    if not resource:
        raise ValueError("resource: expected the name of what is to be locked")
    if not 0 <= wait < float("inf"):
        raise ValueError("wait: expected seconds, from 0")
    if not 0 < lifetime < float("inf"):
        raise ValueError("lifetime: expected seconds, more than 0")
    encoded = (_own_title() if title is None else title).encode(errors="replace")
    fitting = encoded[:MAX_TITLE_BYTES].decode(errors="ignore")
    return Ask(resource, fitting, wait, lifetime, mode, limit)


def _own_title() -> str:
    """Who asks: without the program's arguments, which may be secret."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    program = os.path.basename(sys.argv[0] if sys.argv else "") or "python"
    return f"{user}@{socket.gethostname()}: {program}"
