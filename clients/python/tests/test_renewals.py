"""When a lock is kept, and when it is lost."""

from __future__ import annotations

import logging
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from harness import PATIENCE_S, Proxy, TestCase, answer, wait_until

from rdlm_client import Client, LockLost

JSON = "Content-Type: application/json"

# What is no renewal, though it says yes.
NO_RENEWALS = [
    answer("204 No Content"),
    answer("202 Accepted", JSON, body="{}"),
    answer("200 OK", "Content-Type: text/html", body="<h1>Sign in</h1>"),
    answer("200 OK", JSON, body='{"status":"maintenance"}'),
    answer("200 OK", JSON, "RDLM-Version: 1.1.0", body='{"uid":"%s"}' % ("0" * 32)),
    answer("200 OK", JSON, "RDLM-Version: 1.1.0", body='["uid"]'),
]


class Renewals(TestCase):
    def test_a_lock_is_lost_before_somebody_else_has_it(self) -> None:
        server = self.server()

        def lose(name: str, step: bytes) -> None:
            proxy = self.proxy(server)
            told = threading.Event()
            client = Client(proxy.url, timeout=600)
            with self.assertRaisesRegex(LockLost, "no renewal got through"):
                with client.lock(name, lifetime=1, on_lost=told.set) as lock:
                    proxy.steps = [step]
                    with Client(server.url).lock(name, wait=60):
                        self.assertTrue(lock.lost.is_set())
                        with self.assertRaises(LockLost):
                            lock.check()
                    self.assertTrue(told.wait(60))

        steps = (Proxy.SWALLOW, Proxy.CUT, answer("502 Bad Gateway"), *NO_RENEWALS)
        with ThreadPoolExecutor(len(steps)) as pool:
            for lost in [pool.submit(lose, f"a{i}", step) for i, step in enumerate(steps)]:
                lost.result()

    def test_the_loss_is_told_whatever_hangs(self) -> None:
        server = self.server()
        proxy = self.proxy(server)
        told, go_on = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)

        class Hanging(logging.Handler):
            def emit(self, _record: logging.LogRecord) -> None:
                go_on.wait(PATIENCE_S)

        hanging, log = Hanging(), logging.getLogger("rdlm_client")
        level = log.level
        self.addCleanup(log.setLevel, level)
        self.addCleanup(log.removeHandler, hanging)
        with self.assertRaises(LockLost):
            with Client(proxy.url).lock("a", lifetime=1.5, on_lost=told.set):
                log.addHandler(hanging)
                log.setLevel(logging.INFO)
                proxy.steps = [Proxy.CUT]
                self.assertTrue(told.wait(PATIENCE_S / 2))
                go_on.set()

    def test_renewals_that_fail_are_sent_again(self) -> None:
        server = self.server()
        unknown = answer("502 Bad Gateway")
        proxy = self.proxy(server, Proxy.PASS, Proxy.CUT, unknown, Proxy.SWALLOW, Proxy.PASS)
        with Client(proxy.url, timeout=0.2).lock("a", lifetime=6) as lock:
            server.await_renewal("a")
            lock.check()
        self.assertEqual(server.locks("a"), [])

    def test_the_loss_counts_from_when_the_last_renewal_was_sent(self) -> None:
        server = self.server()
        proxy = self.proxy(server)
        with self.assertRaises(LockLost), Client(proxy.url).lock("a", lifetime=3) as lock:
            before = len(proxy.requests)
            proxy.steps = [Proxy.DELAY_ANSWER, Proxy.SWALLOW]
            wait_until("a renewal", lambda: len(proxy.requests) > before)
            time.sleep(0.5)
            proxy.go_on.set()
            with Client(server.url).lock("a", wait=60):
                self.assertTrue(lock.lost.is_set())

    def test_renewals_whose_answers_do_not_come_do_not_count(self) -> None:
        server = self.server()
        proxy = self.proxy(server)
        before = time.monotonic()
        with self.assertRaises(LockLost):
            with Client(proxy.url, timeout=600).lock("a", lifetime=1.5) as lock:
                proxy.steps = [Proxy.SWALLOW_ANSWER]
                self.assertTrue(lock.lost.wait(60))
                self.assertGreaterEqual(time.monotonic() - before, 1.5)
                # The server has prolonged it, and whoever leaves does not leave it there.
                self.assertEqual(len(server.locks("a")), 1)
                proxy.steps = [Proxy.PASS]
        self.assertEqual(server.locks("a"), [])

    def test_a_server_that_gives_less_time_is_believed(self) -> None:
        server = self.server()
        proxy = self.proxy(server)
        with self.assertRaises(LockLost):
            with Client(proxy.url).lock("a", lifetime=6) as lock:
                uid = lock.url.rpartition("/")[2]
                less = answer("200 OK", JSON, body=f'{{"uid":"{uid}","lifetime":1}}')
                proxy.steps = [less, Proxy.SWALLOW]
                wait_until("a renewal", lambda: len(proxy.times) == 2)
                self.assertTrue(lock.lost.wait(PATIENCE_S))
                self.assertLess(time.monotonic() - proxy.times[1], 4)

    def test_what_was_granted_long_ago_is_renewed_before_the_block(self) -> None:
        server = self.server()
        proxy = self.proxy(server, Proxy.SWALLOW_ANSWER, Proxy.PASS)
        with Client(proxy.url, timeout=1).lock("a", wait=0, lifetime=3):
            self.assertEqual([r.split()[0] for r in proxy.requests], ["POST", "POST", "PATCH"])


if __name__ == "__main__":
    unittest.main()
