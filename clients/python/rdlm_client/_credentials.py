"""What a client is known by.

No message says any of it, not even that of an error in it.
"""

from __future__ import annotations

import base64
import unicodedata


def authorization(user: str | None, password: str, token: str | None) -> str | None:
    """The value of an Authorization header, if there is one.

    What comes from a file or a shell often has a line end behind it, which is taken away: none of
    these can have one.
    """
    if user is not None and token is not None:
        raise ValueError("expected a user or a token, not both")
    if token is not None:
        return f"Bearer {_token(token.strip())}"
    return None if user is None else basic(user.strip(), password.rstrip("\r\n"))


def basic(user: str, password: str) -> str:
    """The value of an Authorization header with a user and a password."""
    if ":" in user:
        raise ValueError("user: has a colon, behind which a password would begin")
    for name, text in (("user", user), ("password", password)):
        if not all(_can_be_sent(character) for character in text):
            raise ValueError(f"{name}: has a character in it that cannot be sent, as a line feed")
    pair = f"{user}:{password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _token(token: str) -> str:
    if not token:
        raise ValueError("token: is empty")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("token: has a character in it that is not visible ASCII, as a blank")
    return token


def _can_be_sent(character: str) -> bool:
    """No control character, and no byte of a variable of the environment that is not UTF-8."""
    return unicodedata.category(character) not in ("Cc", "Cs")
