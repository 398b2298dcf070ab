"""Servers that are killed, proxies that do harm, and networks that are gone."""

from __future__ import annotations

import json
import re
import threading
import time
import unittest

from harness import Proxy, TestCase, answer, problem, wait_until

from rdlm_client import Client, LockLost, NotGranted, ServerError


def keys(proxy: Proxy) -> list[str]:
    """The Idempotency-Key of each POST that came."""
    posts = [request for request in proxy.requests if request.startswith("POST")]
    return [re.findall("Idempotency-Key: (.*)\r", post)[0] for post in posts]


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

    def test_a_block_whose_lock_cannot_be_released_has_run_all_the_same(self) -> None:
        server = self.server()
        with self.assertLogs("rdlm_client", "WARNING") as logs:
            with Client(server.url).lock("a"):
                server.kill()
        self.assertIn("is not released, it expires", logs.output[0])


class Proxies(TestCase):
    def test_a_request_is_sent_again_with_its_key_and_each_lock_has_its_own(self) -> None:
        server = self.server()
        proxy = self.proxy(server, Proxy.CUT, Proxy.CUT, Proxy.PASS)
        client = Client(proxy.url)
        with client.lock("a", wait=0):
            pass
        with client.lock("a", wait=0):
            pass
        first, second, third, fourth = keys(proxy)
        self.assertEqual([first, second], [third, third])
        self.assertNotEqual(third, fourth)

    def test_a_grant_whose_answer_is_lost_is_found_again(self) -> None:
        server = self.server()
        for step in (Proxy.CUT_ANSWER, Proxy.SWALLOW_ANSWER):
            proxy = self.proxy(server, step, Proxy.PASS)
            with Client(proxy.url, timeout=0.5).lock("a", wait=0) as lock:
                (held,) = server.locks("a")
                self.assertEqual(held["fencing_token"], lock.token)
            self.assertEqual(server.locks("a"), [])

    def test_answers_that_are_not_those_of_rdlm_are_none(self) -> None:
        server = self.server()
        others = [
            answer("408 Request Timeout"),
            answer("500 Internal Server Error", "Server: nginx"),
            answer("502 Bad Gateway", "Content-Type: text/html", body="<h1>rdlm/1.0</h1>"),
            answer("503 Service Unavailable", "Retry-After: 0"),
            answer("504 Gateway Timeout", "Server: rdlmx/1.0"),
            answer("429 Too Many Requests", "Retry-After: Mon, 23 Nov 2026 04:43:38 GMT"),
            answer("200 OK", "Content-Type: text/html", body="<h1>Sign in</h1>"),
            answer("404 Not Found", "Server: traefik"),
            answer("201 Created", "Content-Type: application/json", body="{}"),
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ]
        for other in others:
            proxy = self.proxy(server, other, Proxy.PASS)
            with self.subTest(other), Client(proxy.url).lock("a", wait=0):
                self.assertEqual(len(server.locks("a")), 1)

    def test_what_is_no_rdlm_server_is_soon_told(self) -> None:
        proxy = self.proxy(None, answer("404 Not Found", "Server: nginx"))
        begun = time.monotonic()
        with self.assertRaisesRegex(ServerError, "is no rdlm server: it answers 404"):
            Client(proxy.url).lock("a", wait=3600).__enter__()
        self.assertLess(time.monotonic() - begun, 60)

    def test_whoever_cannot_do_it_now_says_when(self) -> None:
        server = self.server()
        later = problem("503 Service Unavailable", "no room", "Retry-After: 1")
        proxy = self.proxy(server, later, Proxy.PASS)
        with Client(proxy.url).lock("a", wait=0):
            self.assertGreaterEqual(proxy.times[1] - proxy.times[0], 1)

    def test_but_the_wait_is_over_when_it_is_over(self) -> None:
        later = problem("503 Service Unavailable", "no room for more", "Retry-After: 100000")
        proxy = self.proxy(None, later)
        begun = time.monotonic()
        with self.assertRaisesRegex(ServerError, "no room for more") as error:
            Client(proxy.url).lock("a", wait=2.5).__enter__()
        self.assertGreaterEqual(time.monotonic() - begun, 2.5)
        self.assertEqual((error.exception.status, len(proxy.requests)), (503, 2))

    def test_an_unknown_outcome_is_asked_for_again(self) -> None:
        server = self.server()
        body = json.dumps({"detail": "it is not known", "outcome": "unknown"})
        fields = ("Server: rdlm/1.0.0", "Content-Type: application/problem+json")
        unknown = answer("503 Service Unavailable", *fields, body=body)
        superseded = problem("409 Conflict", "superseded")
        proxy = self.proxy(server, unknown, superseded, Proxy.PASS)
        with Client(proxy.url).lock("a", wait=0):
            self.assertEqual(len(set(keys(proxy))), 1)

    def test_a_wait_that_is_not_answered_ends_and_leaves_nothing(self) -> None:
        server = self.server()
        server.hold("a")
        proxy = self.proxy(server, Proxy.SWALLOW_ANSWER, Proxy.PASS)
        with self.assertRaises(NotGranted):
            Client(proxy.url, timeout=0.5).lock("a", wait=1).__enter__()
        self.assertEqual(len(server.locks("a")), 1)

    def test_an_answer_that_trickles_is_late_all_the_same(self) -> None:
        server = self.server()
        proxy = self.proxy(server, b"HTTP/1.1 201 Created\r\n", Proxy.PASS)
        with Client(proxy.url, timeout=0.5).lock("a", wait=0):
            self.assertEqual(len(server.locks("a")), 1)

    def test_a_release_whose_answer_is_lost_is_no_loss(self) -> None:
        server = self.server()
        proxy = self.proxy(server, Proxy.PASS, Proxy.CUT_ANSWER, Proxy.PASS)
        with Client(proxy.url).lock("a"):
            pass
        self.assertEqual([r.split()[0] for r in proxy.requests], ["POST", "DELETE", "DELETE"])

    def test_a_renewal_that_hangs_does_not_hold_up_the_release(self) -> None:
        server = self.server()
        proxy = self.proxy(server, Proxy.PASS, Proxy.SWALLOW, Proxy.PASS)
        with Client(proxy.url).lock("a", lifetime=9):
            wait_until("a renewal that is not answered", lambda: len(proxy.requests) == 2)
            left = time.monotonic()
        # Nor for the three seconds that it would take.
        self.assertLess(time.monotonic() - left, 2.5)
        self.assertEqual(server.locks("a"), [])


class Renewals(TestCase):
    def test_a_lock_is_lost_before_somebody_else_has_it(self) -> None:
        server = self.server()
        for step in (Proxy.SWALLOW, Proxy.CUT, answer("502 Bad Gateway")):
            proxy = self.proxy(server, Proxy.PASS, step)
            told = threading.Event()
            client = Client(proxy.url, timeout=600)
            with self.subTest(step), self.assertRaisesRegex(LockLost, "no renewal got through"):
                with client.lock("a", lifetime=1, on_lost=told.set) as lock:
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

    def test_the_loss_counts_from_when_a_renewal_was_sent(self) -> None:
        server = self.server()
        # The answer to the renewal comes when it does not help any more.
        proxy = self.proxy(server, Proxy.PASS, Proxy.SWALLOW_ANSWER)
        with self.assertRaises(LockLost):
            with Client(proxy.url, timeout=600).lock("a", lifetime=1.5) as lock:
                sent = proxy.times[0]
                self.assertTrue(lock.lost.wait(60))
                self.assertGreaterEqual(time.monotonic() - sent, 1.4)
                # The server has prolonged it, and whoever leaves does not leave it there.
                self.assertEqual(len(server.locks("a")), 1)
                proxy.steps = [Proxy.PASS]
        self.assertEqual(server.locks("a"), [])

    def test_what_was_granted_long_ago_is_renewed_before_the_block(self) -> None:
        server = self.server()
        proxy = self.proxy(server, Proxy.SWALLOW_ANSWER, Proxy.PASS)
        with Client(proxy.url, timeout=1).lock("a", wait=0, lifetime=3):
            self.assertEqual([r.split()[0] for r in proxy.requests], ["POST", "POST", "PATCH"])


class SeveralServers(TestCase):
    def test_the_next_one_is_asked_if_one_cannot_be_reached(self) -> None:
        server = self.server()
        gone = self.proxy(None)
        gone.close()
        with Client(f"{gone.url},{server.url}").lock("a", wait=0) as lock:
            self.assertTrue(lock.url.startswith(server.url))

    def test_the_next_one_is_asked_if_one_cannot_do_it(self) -> None:
        server = self.server()
        later = problem("503 Service Unavailable", "no room", "Retry-After: 10")
        for step in (later, answer("502 Bad Gateway"), Proxy.CUT, Proxy.SWALLOW):
            other = self.proxy(None, step)
            client = Client([other.url, server.url], timeout=1)
            begun = time.monotonic()
            with self.subTest(step), client.lock("a", wait=0):
                self.assertLess(time.monotonic() - begun, 8)
            # And it is asked first from now on.
            with client.lock("a", wait=0):
                self.assertEqual(len(other.requests), 1)

    def test_renewals_and_the_release_go_to_the_next_one_too(self) -> None:
        server = self.server()
        one, two = self.proxy(server), self.proxy(server)
        with Client([one.url, two.url]).lock("a", lifetime=3) as lock:
            one.close()
            wait_until("a renewal by the other", lambda: two.requests)
            lock.check()
        self.assertEqual(server.locks("a"), [])

    def test_no_server_at_all_is_an_error(self) -> None:
        proxies = [self.proxy(None) for _ in range(3)]
        for proxy in proxies:
            proxy.close()
        with self.assertRaisesRegex(ServerError, "cannot reach"):
            Client([proxy.url for proxy in proxies]).lock("a", wait=0).__enter__()

    def test_a_redirection_is_followed_without_the_password(self) -> None:
        server = self.server()
        active = self.proxy(server)
        standby = self.proxy(None, moved(active.url))
        url = standby.url.replace("http://", "http://me:secret@")
        with Client(url).lock("a", lifetime=60) as lock:
            self.assertEqual(lock.url.rpartition("/locks/")[0], active.url)
            self.assertIn("Authorization", standby.requests[0])
            self.assertNotIn("Authorization", active.requests[0])
            self.assertEqual(keys(standby), keys(active))

    def test_a_redirection_among_those_that_are_named_keeps_it(self) -> None:
        server = self.server()
        active = self.proxy(server)
        standby = self.proxy(None, moved(active.url))
        with Client([standby.url, active.url], token="a-token").lock("a"):
            self.assertIn("Authorization: Bearer a-token\r\n", active.requests[0])

    def test_servers_that_point_at_each_other_are_an_error(self) -> None:
        one, two = self.proxy(None), self.proxy(None)
        one.steps, two.steps = [moved(two.url)], [moved(one.url)]
        with self.assertRaises(ServerError):
            Client([one.url, two.url]).lock("a", wait=0).__enter__()


def moved(url: str) -> bytes:
    return answer("307 Temporary Redirect", "Server: rdlm/1.0.0", f"Location: {url}{{path}}")


if __name__ == "__main__":
    unittest.main()
