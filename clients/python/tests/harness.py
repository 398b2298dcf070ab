"""Real servers, proxies that do harm, and clients that are processes of their own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar
from unittest import mock

HERE = Path(__file__).resolve().parent

# Long enough for anything on a busy machine. A test that reaches it fails.
PATIENCE_S = 30.0

T = TypeVar("T")

# Not on the terminal.
logging.getLogger("rdlm_client").addHandler(logging.NullHandler())


def binary() -> str:
    """The server: that of RDLM_BINARY, or the newest debug build."""
    named = os.environ.get("RDLM_BINARY")
    if named:
        return named
    target = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parents[2] / "target")
    builds = [*target.glob("debug/rdlm"), *target.glob("*/debug/rdlm")]
    if not builds:
        raise RuntimeError("there is no rdlm: cargo build, or set RDLM_BINARY")
    return str(max(builds, key=lambda build: build.stat().st_mtime))


def wait_until(what: str, condition: Callable[[], T]) -> T:
    """Looks until the condition is true, and returns what it was."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > ends:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.01)


class Server:
    """An rdlm server on a free port."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process = self._start(0)
        self.port = self._await_start()
        self.url = f"http://127.0.0.1:{self.port}"

    def _start(self, port: int) -> subprocess.Popen[str]:
        command = [binary(), "serve", "--bind", "127.0.0.1", "--port", str(port), *self._options]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def _await_start(self) -> int:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            found = re.search(r"listening on \S*?:(\d+)", line)
            if found:
                return int(found[1])
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        """As a crash does."""
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def start_again(self) -> None:
        """On the same port."""
        self._process = self._start(self.port)
        self._await_start()

    def request(self, method: str, path: str, body: str | None = None) -> Any:
        """The JSON of the answer."""
        data = None if body is None else body.encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return json.loads(response.read() or "null")

    def locks(self, resource: str) -> list[dict[str, Any]]:
        """Those who hold it, then those who wait, as the server lists them."""
        found = self.request("GET", f"/resources/{resource}")
        locks: list[dict[str, Any]] = found.get("_embedded", {}).get("locks", [])
        return locks

    def hold(self, resource: str) -> None:
        """Has somebody hold it for the whole test."""
        body = '{"title":"somebody else","wait":0,"lifetime":600}'
        self.request("POST", f"/locks/{resource}", body)

    def delete(self, resource: str) -> None:
        """As an administrator."""
        self.request("DELETE", f"/resources/{resource}")

    def delete_first(self, resource: str) -> None:
        """The lock of the first holder alone."""
        self.request("DELETE", self.locks(resource)[0]["_links"]["self"]["href"])

    def await_renewal(self, resource: str) -> None:
        """Of the lock that is held now."""
        ends = self.locks(resource)[0]["active_expires"]
        wait_until("a renewal", lambda: self.locks(resource)[0]["active_expires"] > ends)

    def await_waiters(self, resource: str, count: int = 1) -> None:
        wait_until(
            f"{count} in line",
            lambda: sum(not lock["active"] for lock in self.locks(resource)) == count,
        )


class Proxy:
    """Takes one step a connection, and the last one for all that follow.

    | step | |
    |---|---|
    | PASS | passes everything on |
    | CUT | reads the request and closes the connection |
    | SWALLOW | reads the request and never answers |
    | CUT_ANSWER | passes the request on, and closes the connection when the answer comes |
    | SWALLOW_ANSWER | passes the request on, but not the answer |
    | DELAY | passes everything on, but not before `go_on` is set |
    | DELAY_ANSWER | passes the request on, and the answer when `go_on` is set |
    | RENAME | passes everything on, with its own name as that of the server |
    | any other bytes | answers with them, and the path of the request for `{path}` |
    """

    PASS = b"pass"
    CUT = b"cut"
    SWALLOW = b"swallow"
    CUT_ANSWER = b"cut the answer"
    SWALLOW_ANSWER = b"swallow the answer"
    DELAY = b"delay"
    DELAY_ANSWER = b"delay the answer"
    RENAME = b"put its own name into the answer"

    _PASSING = (PASS, CUT_ANSWER, SWALLOW_ANSWER, DELAY_ANSWER, RENAME)

    def __init__(self, to: Server | None, *steps: bytes) -> None:
        self.steps = list(steps or [self.PASS])
        # Those that came, each with the moment when.
        self.requests: list[str] = []
        self.times: list[float] = []
        self.go_on = threading.Event()
        self._to = to
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Nobody listens there any more, and what is open breaks."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._open):
            each.close()

    def _run(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            self._open.append(client)
            step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
            thread = threading.Thread(target=self._serve, args=(client, step), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, step: bytes) -> None:
        with contextlib.suppress(OSError):
            client.settimeout(PATIENCE_S)
            request = read_request(client)
            self.times.append(time.monotonic())
            self.requests.append(request.decode())
            if step == self.DELAY:
                self.go_on.wait(PATIENCE_S)
                step = self.PASS
            if step == self.SWALLOW:
                client.recv(1)
            elif step in self._PASSING:
                self._pass_on(client, request, step)
            elif step != self.CUT:
                client.sendall(step.replace(b"{path}", request.split()[1]))
            client.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, client: socket.socket, request: bytes, step: bytes) -> None:
        assert self._to is not None
        with socket.create_connection(("127.0.0.1", self._to.port)) as server:
            server.sendall(request)
            ready = select.select([client, server], [], [], PATIENCE_S)[0]
            # A client that leaves while it waits is followed.
            while server in ready and step != self.CUT_ANSWER:
                answer = server.recv(65536)
                if not answer:
                    break
                if step == self.DELAY_ANSWER:
                    self.go_on.wait(PATIENCE_S)
                if step == self.RENAME:
                    answer = re.sub(rb"\r\nServer: [^\r]*", b"\r\nServer: nginx", answer)
                if step != self.SWALLOW_ANSWER:
                    client.sendall(answer)
                ready = select.select([client, server], [], [], PATIENCE_S)[0]
            if step == self.SWALLOW_ANSWER:
                client.recv(1)


class OutOfReach:
    """A port at which no connection comes about: its queue is full, as if packets were dropped."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        address = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{address[1]}"
        self._queued = []
        for _ in range(3):
            queued = socket.socket()
            queued.setblocking(False)
            queued.connect_ex(address)
            self._queued.append(queued)

    def close(self) -> None:
        for each in (self._listener, *self._queued):
            each.close()


def read_request(client: socket.socket) -> bytes:
    """A request with its body."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += client.recv(4096) or b"\r\n\r\n"
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        more = client.recv(4096)
        if not more:
            break
        body += more
    return head + b"\r\n\r\n" + body


def answer(status: str, *headers: str, body: str = "") -> bytes:
    """The bytes of an answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def keys(proxy: Proxy) -> list[str]:
    """The Idempotency-Key of each request for a lock."""
    posts = [request for request in proxy.requests if request.startswith("POST")]
    return [re.findall("Idempotency-Key: (.*)\r", post)[0] for post in posts]


def problem(status: str, detail: str, *headers: str) -> bytes:
    """The bytes of an error of rdlm."""
    fields = ("Server: rdlm/1.0.0", "Content-Type: application/problem+json", *headers)
    return answer(status, *fields, body=json.dumps({"detail": detail}))


def moved(url: str) -> bytes:
    """The bytes of a redirection, from any path to the same one there."""
    return answer("307 Temporary Redirect", "Server: rdlm/1.0.0", f"Location: {url}{{path}}")


class Resolver:
    """Knows a name, that of the loopback, and can be silent about it."""

    NAME = "locks.test"

    def __init__(self) -> None:
        self.speaks = threading.Event()
        self.speaks.set()
        # Who asked, and how many at a time at most.
        self.asked = 0
        self.most = 0
        self._asking = 0
        self._mutex = threading.Lock()
        self._system = socket.getaddrinfo

    def url(self, server: Server | Proxy) -> str:
        return f"http://{self.NAME}:{server.port}"

    def look_up(self, host: str, *arguments: Any, **options: Any) -> Any:
        """In place of `getaddrinfo`."""
        if host != self.NAME or "flags" in options:
            return self._system(host, *arguments, **options)
        with self._mutex:
            self.asked += 1
            self._asking += 1
            self.most = max(self.most, self._asking)
        self.speaks.wait(PATIENCE_S)
        with self._mutex:
            self._asking -= 1
        return self._system("127.0.0.1", *arguments, **options)


class Script:
    """A client that is a process of its own; it tells what happens a line at a time."""

    def __init__(self, url: str, text: str) -> None:
        # SIGINT is ignored in what a shell has started in the background.
        head = """
import os, signal, sys, time
from rdlm_client import *
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
        environment = {**os.environ, "RDLM_URL": url, "PYTHONPATH": str(HERE.parent)}
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-W", "ignore::DeprecationWarning", "-c", head + text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def line(self) -> str:
        """The next line that it prints."""
        return self._stream(self.process.stdout).readline().rstrip("\n")

    def tell(self, line: str) -> None:
        """A line that it can read."""
        stream = self._stream(self.process.stdin)
        stream.write(line + "\n")
        stream.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Waits for its end: its code, and what it has written to standard error."""
        errors = self.process.communicate(timeout=PATIENCE_S)[1]
        return self.process.returncode, errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _stream(self, stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream


class TestCase(unittest.TestCase):
    """Ends what a test has started, and looks that it has left nothing."""

    def setUp(self) -> None:
        before = threads()
        self.addCleanup(wait_until, "the threads end", lambda: threads() <= before)

    def server(self, *options: str) -> Server:
        server = Server(*options)
        self.addCleanup(server.kill)
        return server

    def proxy(self, to: Server | None, *steps: bytes) -> Proxy:
        proxy = Proxy(to, *steps)
        self.addCleanup(proxy.close)
        return proxy

    def resolver(self) -> Resolver:
        resolver = Resolver()
        looking = mock.patch("socket.getaddrinfo", resolver.look_up)
        looking.start()
        self.addCleanup(looking.stop)
        self.addCleanup(resolver.speaks.set)
        return resolver

    def out_of_reach(self) -> OutOfReach:
        nowhere = OutOfReach()
        self.addCleanup(nowhere.close)
        return nowhere

    def script(self, url: str, text: str) -> Script:
        script = Script(url, text)
        self.addCleanup(script.kill)
        return script

    def directory(self) -> Path:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return Path(directory.name)


def threads() -> int:
    """How many the kernel knows."""
    return len(os.listdir("/proc/self/task"))
