"""Several servers, of which any will do."""

from __future__ import annotations

import time
import unittest

from harness import Proxy, TestCase, answer, keys, moved, problem, wait_until

from rdlm_client import Client, ServerError


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


if __name__ == "__main__":
    unittest.main()
