"""Many servers that cannot be reached, or say nothing, share the time that there is."""

from __future__ import annotations

import asyncio
import time
import unittest

from harness import Proxy, TestCase, wait_until

from rdlm_client import Client, ServerError, aio


class Deadlines(TestCase):
    def test_all_are_asked_for_a_renewal_before_the_lock_is_lost(self) -> None:
        server = self.server()
        first = self.proxy(server)
        silent, last = self.proxy(None, Proxy.SWALLOW), self.proxy(server)
        nowhere = [self.out_of_reach().url for _ in range(2)]
        urls = [first.url, *nowhere, silent.url, last.url]
        with Client(urls, timeout=600).lock("a", lifetime=9) as lock:
            first.steps = [Proxy.SWALLOW]
            wait_until("a renewal by the last", lambda: last.requests)
            server.await_renewal("a")
            lock.check()

    def test_a_withdrawal_reaches_the_one_that_answers(self) -> None:
        server = self.server()
        server.hold("a")
        # The request is in line, and whoever took it there says nothing any more.
        first = self.proxy(server, Proxy.SWALLOW_ANSWER, Proxy.SWALLOW)
        urls = [first.url, self.out_of_reach().url, server.url]

        async def main() -> None:
            entering = asyncio.create_task(aio.Client(urls).lock("a", wait=600).__aenter__())
            await asyncio.to_thread(server.await_waiters, "a")
            entering.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await entering

        with self.assertLogs("rdlm_client", "INFO") as logs:
            asyncio.run(main())
        self.assertEqual(len(server.locks("a")), 1)
        self.assertIn("the request for a is not withdrawn yet", logs.output[0])

    def test_many_that_are_silent_cost_no_more_than_one(self) -> None:
        server = self.server()
        first = self.proxy(server)
        silent = [self.proxy(None, Proxy.SWALLOW).url for _ in range(9)]
        begun = time.monotonic()
        with self.assertRaisesRegex(ServerError, "does not answer"):
            Client(silent, timeout=1).lock("a", wait=0).__enter__()
        self.assertLess(time.monotonic() - begun, 9)
        with self.assertLogs("rdlm_client", "WARNING") as logs:
            with Client([first.url, *silent], timeout=1).lock("a"):
                first.steps = [Proxy.SWALLOW]
                begun = time.monotonic()
            self.assertLess(time.monotonic() - begun, 9)
        self.assertIn("the lock on a is not released, it expires", logs.output[0])


if __name__ == "__main__":
    unittest.main()
