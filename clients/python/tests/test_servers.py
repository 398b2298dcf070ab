"""Servers that are killed, or not there."""

from __future__ import annotations

import socket
import threading
import time
import unittest
from unittest import mock

from harness import Proxy, TestCase, problem

from rdlm_client import Client, ServerError

look_up = socket.getaddrinfo


def unknown_name(host: str, *rest: object, **named: object) -> object:
    """As a name server answers."""
    if host.endswith(".invalid"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return look_up(host, *rest, **named)  # type: ignore[arg-type]


class TheServer(TestCase):
    def test_a_lock_outlives_a_server_that_is_killed(self) -> None:
        server = self.server("--data-dir", str(self.directory()))
        with Client(server.url).lock("a", lifetime=6) as lock:
            server.kill()
            server.start_again()
            server.await_renewal("a")
            self.assertEqual(server.locks("a")[0]["fencing_token"], lock.token)
            lock.check()
        self.assertEqual(server.locks("a"), [])

    def test_a_wait_outlives_a_server_that_is_killed(self) -> None:
        server = self.server()
        server.hold("a")

        def kill() -> None:
            server.await_waiters("a")
            server.kill()
            server.start_again()

        killing = threading.Thread(target=kill)
        killing.start()
        self.addCleanup(killing.join)
        with Client(server.url).lock("a", wait=60):
            self.assertEqual(len(server.locks("a")), 1)

    def test_a_server_that_comes_late_is_waited_for(self) -> None:
        server = self.server()
        server.kill()
        starting = threading.Timer(0.5, server.start_again)
        starting.start()
        self.addCleanup(starting.join)
        with Client(server.url).lock("a", wait=60):
            self.assertEqual(len(server.locks("a")), 1)

    def test_what_no_other_try_mends_fails_at_once(self) -> None:
        begun = time.monotonic()
        name = "no-such-host.invalid"
        with mock.patch("socket.getaddrinfo", side_effect=unknown_name):
            with self.assertRaisesRegex(ServerError, f"cannot reach http://{name}"):
                Client(f"http://{name}").lock("a", wait=60).__enter__()
        server = self.server()
        plain = server.url.replace("http://", "https://")
        with self.assertRaisesRegex(ServerError, "does not speak TLS: use http://"):
            Client(plain).lock("a", wait=60).__enter__()
        self.assertLess(time.monotonic() - begun, 30)

    def test_another_server_is_asked_if_one_has_no_such_name(self) -> None:
        server = self.server()
        with mock.patch("socket.getaddrinfo", side_effect=unknown_name):
            with Client(["http://no-such-host.invalid", server.url]).lock("a", wait=60):
                pass

    def test_a_name_server_that_is_not_there_yet_is_waited_for_with_a_line_in_the_log(self) -> None:
        failures = [socket.gaierror(socket.EAI_AGAIN, "Temporary failure")] * 2

        def later(_host: str, *rest: object, **named: object) -> object:
            if named.get("flags"):
                raise socket.gaierror(socket.EAI_NONAME, "it is not numeric")
            if failures:
                raise failures.pop()
            return look_up("127.0.0.1", *rest, **named)  # type: ignore[arg-type]

        server = self.server()
        url = server.url.replace("127.0.0.1", "localhost")
        with mock.patch("socket.getaddrinfo", side_effect=later):
            with (
                self.assertLogs("rdlm_client", "WARNING") as logged,
                Client(url).lock("a", wait=60),
            ):
                pass
        self.assertEqual(len(logged.output), 1)
        self.assertIn("sent again: cannot reach", logged.output[0])

    def test_a_server_that_never_comes_is_waited_for_until_the_wait_is_over(self) -> None:
        server = self.server()
        server.kill()
        begun = time.monotonic()
        with self.assertRaisesRegex(ServerError, "cannot reach http://127.0.0.1") as error:
            Client(server.url).lock("a", wait=2.5).__enter__()
        self.assertGreaterEqual(time.monotonic() - begun, 2.5)
        self.assertIsNone(error.exception.status)

    def test_a_server_that_asks_for_a_long_pause_is_asked_again_all_the_same(self) -> None:
        later = problem("503 Service Unavailable", "no room", "Retry-After: 100000")
        proxy = self.proxy(self.server(), later, Proxy.PASS)
        with Client(proxy.url).lock("a", wait=3600):
            self.assertEqual(len(proxy.requests), 2)

    def test_a_block_whose_lock_cannot_be_released_has_run_all_the_same(self) -> None:
        server = self.server()
        with self.assertLogs("rdlm_client", "WARNING") as logs:
            with Client(server.url).lock("a"):
                server.kill()
        self.assertIn("the lock on a is not released, it expires", logs.output[0])


if __name__ == "__main__":
    unittest.main()
