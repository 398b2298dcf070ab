"""When a lock is kept, and when it is lost."""

from __future__ import annotations

import threading
import time
import unittest

from harness import Proxy, TestCase, answer, wait_until

from rdlm_client import Client, LockLost


class Renewals(TestCase):
    def test_a_lock_is_lost_before_somebody_else_has_it(self) -> None:
        server = self.server()
        portal = answer("200 OK", "Content-Type: application/json", body='{"sign":"in"}')
        for step in (Proxy.SWALLOW, Proxy.CUT, answer("502 Bad Gateway"), portal):
            proxy = self.proxy(server)
            told = threading.Event()
            client = Client(proxy.url, timeout=600)
            with self.subTest(step), self.assertRaisesRegex(LockLost, "no renewal got through"):
                with client.lock("a", lifetime=1, on_lost=told.set) as lock:
                    proxy.steps = [step]
                    with Client(server.url).lock("a", wait=60):
                        self.assertTrue(lock.lost.is_set())
                        with self.assertRaises(LockLost):
                            lock.check()
                    self.assertTrue(told.wait(60))

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

    def test_what_was_granted_long_ago_is_renewed_before_the_block(self) -> None:
        server = self.server()
        proxy = self.proxy(server, Proxy.SWALLOW_ANSWER, Proxy.PASS)
        with Client(proxy.url, timeout=1).lock("a", wait=0, lifetime=3):
            self.assertEqual([r.split()[0] for r in proxy.requests], ["POST", "POST", "PATCH"])


if __name__ == "__main__":
    unittest.main()
