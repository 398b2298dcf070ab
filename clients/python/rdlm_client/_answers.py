"""What an answer means."""

from __future__ import annotations

import json
from typing import Any

from ._errors import Failure, Kind
from ._http import Answer
from ._urls import showable

# What rdlm, nginx and Go's servers answer to plain HTTP on a port for TLS.
SPEAKS_TLS = (
    b"This port speaks HTTPS",
    b"Client sent an HTTP request to an HTTPS server",
    b"<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port",
)

# A server that asks for a longer pause is asked again after this one.
MAX_RETRY_AFTER_S = 10.0


def body_of(answer: Answer, url: str, expected: int) -> dict[str, Any]:
    """The body of an answer with the expected status, or nothing if that is no JSON object.

    Raises `Failure` for any other answer.
    """
    if answer.status == expected:
        return _json(answer)
    is_problem = answer.headers.get_content_type() == "application/problem+json"
    problem = _json(answer) if is_problem else {}
    if isinstance(problem.get("detail"), str) and _is_of_rdlm(answer, problem):
        raise _refusal(url, answer, problem)
    if answer.status in (401, 403):
        detail = f"{url} answers {answer.status}"
        raise Failure(Kind.REFUSED, detail, status=answer.status)
    if answer.status in (408, 429) or answer.status >= 500:
        detail = f"{url} answers {answer.status}, not as rdlm does: is the server behind it there?"
        after_s = _retry_after_s(answer)
        raise Failure(Kind.PROXY, detail, status=answer.status, retry_after_s=after_s)
    if answer.status == 400 and answer.body.startswith(SPEAKS_TLS):
        raise Failure(Kind.MISCONFIGURED, f"{url} speaks TLS: use https://", status=400)
    raise _foreign(url, answer)


def elsewhere(answer: Answer, path: str) -> str | None:
    """The URL of the server that the answer says is to be asked for this path."""
    location = str(answer.headers.get("Location", ""))
    if answer.status in (307, 308) and "://" in location and location.endswith(path):
        return location[: -len(path)]
    return None


def _refusal(url: str, answer: Answer, problem: dict[str, Any]) -> Failure:
    """What rdlm itself says no with."""
    status, detail, reason = answer.status, str(problem["detail"]), problem.get("reason")
    if status == 404 and reason == "no_such_lock":
        return Failure(Kind.GONE, _what_became(problem.get("gone")), status=status)
    if status == 404:
        # The base of the URL is not where the server's begins.
        return Failure(Kind.FOREIGN, f"{url} is not where rdlm's API begins", status=status)
    if status == 409 and "superseded" in (reason, detail):
        # Something on the way has sent the same request again.
        return Failure(Kind.DROPPED, detail, status=status)
    if status == 408 and reason != "timed_out":
        # The request has not come in whole, or in time.
        return Failure(Kind.DROPPED, detail, status=status)
    if status == 503 and problem.get("outcome") == "unknown":
        return Failure(Kind.DROPPED, detail, status=status)
    if status == 503:
        after_s = _retry_after_s(answer)
        return Failure(Kind.LATER, detail, status=status, retry_after_s=after_s)
    return Failure(Kind.REFUSED, detail, status=status)


ENDS = {"expired": "it has expired", "released": "it was released", "deleted": "it was deleted"}


def _what_became(gone: object) -> str:
    """Of a lock, as far as the server still knows."""
    if not isinstance(gone, dict) or gone.get("how") not in ENDS:
        return "it was deleted, or has expired"
    by = gone.get("by")
    who = [by[name] for name in ("user", "client") if by.get(name)] if isinstance(by, dict) else []
    text = ENDS[gone["how"]]
    text += f" by {_printable(' of '.join(map(str, who)))}" if who else ""
    return text + (f": {_printable(str(gone['reason']))}" if gone.get("reason") else "")


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _foreign(url: str, answer: Answer) -> Failure:
    to = f", to {showable(answer.headers['Location'])}" if "Location" in answer.headers else ""
    detail = f"{url} is no rdlm server: it answers {answer.status}{to}, not as rdlm does"
    return Failure(Kind.FOREIGN, detail, status=answer.status)


def _is_of_rdlm(answer: Answer, problem: dict[str, Any]) -> bool:
    """Whether rdlm itself says so, not a proxy on the way: proxies pass on a header that they do
    not know, and a body, but many put their own name in place of the server's.
    """
    if "RDLM-Version" in answer.headers or str(problem.get("type")).startswith("urn:rdlm:"):
        return True
    # All that 1.0.0 has; a proxy may have added its own name.
    products = " ".join(answer.headers.get_all("Server", [])).replace(",", " ").split()
    return any(product.startswith("rdlm/") for product in products)


def _json(answer: Answer) -> dict[str, Any]:
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after_s(answer: Answer) -> float:
    text = answer.headers.get("Retry-After", "").strip()
    # Not a date, which a clock that somebody has set would have to understand.
    return min(float(text), MAX_RETRY_AFTER_S) if text.isdecimal() else 0.0
