"""The URLs of servers."""

from __future__ import annotations

import ssl
import urllib.parse

from ._credentials import basic
from ._http import Address

EXPECTED_URL = "expected the URL of a server, as http://locks:8888 or https://host/path"


def address_of(url: str, tls: ssl.SSLContext | None) -> tuple[Address, str | None]:
    """Takes a URL apart, also into the Authorization that its name and password make.

    Raises ValueError, with nothing of the URL in it, which may have a password.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(EXPECTED_URL) from None
    is_visible = url.isascii() and url.isprintable() and " " not in url
    is_base = parts.scheme in ("http", "https") and not parts.query and not parts.fragment
    if not (is_visible and is_base and host):
        raise ValueError(EXPECTED_URL)
    bracketed = f"[{host}]" if ":" in host else host
    authority = bracketed if port is None else f"{bracketed}:{port}"
    path = parts.path.rstrip("/")
    address = Address(
        url=f"{parts.scheme}://{authority}{path}",
        host=host,
        port=port or (443 if parts.scheme == "https" else 80),
        authority=authority,
        path=path,
        tls=tls if parts.scheme == "https" else None,
    )
    if parts.username is None:
        return address, None
    user, password = (urllib.parse.unquote(each or "") for each in (parts.username, parts.password))
    return address, basic(user, password)


def showable(url: str) -> str:
    """A URL that somebody else has sent, without what may be secret: a password, or a query."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "what is no URL"
    host = parts.netloc.rpartition("@")[2]
    shown = urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
    return shown if shown.isprintable() else "what is no URL"
