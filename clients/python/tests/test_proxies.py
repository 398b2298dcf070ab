"""Proxies that cut, swallow, and answer by themselves."""

from __future__ import annotations

import json
import time
import unittest

from harness import PATIENCE_S, Proxy, TestCase, answer, keys, problem, wait_until

from rdlm_client import Client, LockLost, NotGranted, ServerError

UNKNOWN = answer(
    "503 Service Unavailable",
    "Server: rdlm/1.0.0",
    "Content-Type: application/problem+json",
    body=json.dumps({"detail": "it is not known", "outcome": "unknown"}),
)


def problem_of_another(status: str, reason: str) -> bytes:
    """The bytes of an error of something else that speaks of problems."""
    body = json.dumps({"type": "about:blank", "detail": "it is not there", "reason": reason})
    return answer(status, "Server: other", "Content-Type: application/problem+json", body=body)


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
            with Client(proxy.url, timeout=1.5).lock("a", wait=0) as lock:
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
            problem_of_another("404 Not Found", "no_such_lock"),
            problem_of_another("409 Conflict", "deleted"),
            answer("201 Created", "Content-Type: application/json", body="{}"),
            answer("201 Created", "Server: rdlm/1.0.0", body="[" * 500_000),
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ]
        for other in others:
            proxy = self.proxy(server, other, Proxy.PASS)
            with self.subTest(other), Client(proxy.url).lock("a", wait=0):
                self.assertEqual(len(server.locks("a")), 1)

    def test_rdlm_is_known_behind_a_proxy_that_puts_its_own_name_into_answers(self) -> None:
        server = self.server()
        server.hold("taken")
        proxy = self.proxy(server, Proxy.RENAME)
        client = Client(proxy.url)
        with self.assertRaisesRegex(NotGranted, "not granted"):
            client.lock("taken", wait=0).__enter__()
        with self.assertRaisesRegex(ServerError, "name"):
            client.lock("a b").__enter__()
        self.assertEqual(len(proxy.requests), 2)
        with self.assertRaisesRegex(LockLost, "it was deleted"):
            with client.lock("a", lifetime=3) as lock:
                server.delete("a")
                lock.lost.wait(PATIENCE_S)

    def test_one_sign_of_rdlm_is_enough(self) -> None:
        plain, media_type = "Server: nginx", "Content-Type: application/problem+json"
        typed = {"type": "urn:rdlm:problem:timed_out"}
        for headers, fields in (
            (["RDLM-Version: 1.1.0", plain], {}),
            ([plain], typed),
            (["Server: nginx, rdlm/1.0.0"], {"type": "about:blank"}),
        ):
            body = json.dumps({"detail": "in vain", "reason": "timed_out", **fields})
            proxy = self.proxy(None, answer("408 Request Timeout", media_type, *headers, body=body))
            with self.subTest(headers), self.assertRaisesRegex(NotGranted, "in vain"):
                Client(proxy.url).lock("a", wait=600).__enter__()
            self.assertEqual(len(proxy.requests), 1)

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
        superseded = problem("409 Conflict", "superseded")
        proxy = self.proxy(server, UNKNOWN, superseded, Proxy.PASS)
        with Client(proxy.url).lock("a", wait=0):
            self.assertEqual(len(set(keys(proxy))), 1)

    def test_a_wait_that_is_not_answered_ends_and_leaves_nothing(self) -> None:
        server = self.server()
        server.hold("a")
        proxy = self.proxy(server, Proxy.SWALLOW_ANSWER, Proxy.PASS)
        with self.assertRaises(NotGranted):
            Client(proxy.url, timeout=1.5).lock("a", wait=1).__enter__()
        self.assertEqual(len(server.locks("a")), 1)

    def test_an_answer_that_trickles_is_late_all_the_same(self) -> None:
        server = self.server()
        proxy = self.proxy(server, b"HTTP/1.1 201 Created\r\n", Proxy.PASS)
        with Client(proxy.url, timeout=1.5).lock("a", wait=0):
            self.assertEqual(len(server.locks("a")), 1)

    def test_what_says_yes_and_is_no_answer_of_rdlm_releases_and_converts_nothing(self) -> None:
        server = self.server()
        maintenance = answer("200 OK", "Content-Type: application/json", body='{"status":"off"}')
        for step in (maintenance, answer("202 Accepted")):
            proxy = self.proxy(server, Proxy.PASS, step, Proxy.PASS)
            with self.subTest(step):
                with Client(proxy.url).lock("a"):
                    pass
                self.assertEqual(server.locks("a"), [])
        for step in (maintenance, answer("204 No Content")):
            proxy = self.proxy(server)
            with self.subTest(step), Client(proxy.url).lock("a", mode="PR") as lock:
                proxy.steps = [step, Proxy.PASS]
                with self.assertRaisesRegex(ServerError, "is no rdlm server"):
                    lock.convert("EX")
                self.assertEqual(server.locks("a")[0]["mode"], "PR")
                # While it may be waited for, it is asked for again.
                proxy.steps = [step, Proxy.PASS]
                lock.convert("EX", wait=60)
                self.assertEqual(server.locks("a")[0]["mode"], "EX")

    def test_each_request_that_is_sent_again_is_logged(self) -> None:
        server = self.server()
        gone = answer("502 Bad Gateway")
        proxy = self.proxy(server, gone, Proxy.PASS)
        with self.assertLogs("rdlm_client", "INFO") as logs:
            with Client(proxy.url).lock("a", mode="PR", lifetime=3) as lock:
                proxy.steps = [gone, Proxy.PASS]
                lock.convert("EX", wait=60)
                proxy.steps = [gone, Proxy.PASS]
                wait_until("a renewal that fails", lambda: "renewed" in logs.output[-1])
                server.await_renewal("a")
                proxy.steps = [gone, Proxy.PASS]
        self.assertEqual(
            [line.partition(":http")[0].partition(": http")[0] for line in logs.output],
            [
                "WARNING:rdlm_client:the request for a is sent again",
                "INFO:rdlm_client:the lock on a is not converted yet",
                "INFO:rdlm_client:the lock on a is not renewed",
                "INFO:rdlm_client:the lock on a is not released yet",
            ],
        )

    def test_a_release_whose_answer_is_lost_is_no_loss(self) -> None:
        server = self.server()
        proxy = self.proxy(server, Proxy.PASS, Proxy.CUT_ANSWER, Proxy.PASS)
        with Client(proxy.url).lock("a"):
            pass
        self.assertEqual([r.split()[0] for r in proxy.requests], ["POST", "DELETE", "DELETE"])

    def test_a_release_of_unknown_outcome_is_no_loss(self) -> None:
        server = self.server()
        proxy = self.proxy(server)
        with Client(proxy.url).lock("a", lifetime=60):
            # As if the server had done it, and could not say so.
            server.delete("a")
            proxy.steps = [UNKNOWN, Proxy.PASS]
        self.assertEqual(proxy.requests[-1].split()[0], "DELETE")

    def test_a_renewal_that_hangs_does_not_hold_up_the_release(self) -> None:
        server = self.server()
        proxy = self.proxy(server, Proxy.PASS, Proxy.SWALLOW, Proxy.PASS)
        with Client(proxy.url).lock("a", lifetime=9):
            wait_until("a renewal that is not answered", lambda: len(proxy.requests) == 2)
            left = time.monotonic()
        # Nor for the three seconds that it would take.
        self.assertLess(time.monotonic() - left, 2.5)
        self.assertEqual(server.locks("a"), [])


if __name__ == "__main__":
    unittest.main()
