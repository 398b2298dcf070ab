"""Servers that are killed, or not there."""

from __future__ import annotations

import threading
import time
import unittest

from harness import Proxy, TestCase, problem

from rdlm_client import Client, ServerError


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
