"""A resolver that says nothing."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import unittest
from unittest import mock

from harness import PATIENCE_S, TestCase, wait_until

from rdlm_client import Client, LockLost, ServerError, aio

# Without a bound, each of these tests takes the resolver's time.
BOUNDED_S = PATIENCE_S / 2

OUTSIDE = "the lock on a is not held outside of its block"


class Names(TestCase):
    def test_the_loss_is_told_while_a_look_up_hangs(self) -> None:
        server, resolver = self.server(), self.resolver()
        told = threading.Event()
        lock = Client(resolver.url(server)).lock("a", lifetime=1.5, on_lost=told.set)
        with self.assertRaisesRegex(LockLost, "no renewal got through"), lock:
            resolver.speaks.clear()
            with Client(server.url).lock("a", wait=60):
                self.assertTrue(told.wait(BOUNDED_S))
                left = time.monotonic()
        self.assertLess(time.monotonic() - left, BOUNDED_S)

    def test_the_loop_tells_it_too(self) -> None:
        server, resolver = self.server(), self.resolver()

        async def main() -> None:
            told = asyncio.Event()
            client = aio.Client(resolver.url(server))
            async with client.lock("a", lifetime=1.5, on_lost=told.set):
                resolver.speaks.clear()
                await asyncio.wait_for(told.wait(), BOUNDED_S)

        with self.assertRaises(LockLost):
            asyncio.run(main())

    def test_a_request_is_given_up_in_time(self) -> None:
        resolver = self.resolver()
        resolver.speaks.clear()
        begun = time.monotonic()
        client = Client(f"http://{resolver.NAME}:1", timeout=0.5)
        with self.assertRaisesRegex(ServerError, "its name is not looked up within 0.5 s"):
            client.lock("a", wait=0).__enter__()
        self.assertLess(time.monotonic() - begun, BOUNDED_S)

    def test_a_wait_can_be_cancelled_meanwhile(self) -> None:
        resolver = self.resolver()
        resolver.speaks.clear()

        async def main() -> None:
            entering = aio.Client(f"http://{resolver.NAME}:1").lock("a", wait=600).__aenter__()
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(entering, 0.1)

        begun = time.monotonic()
        asyncio.run(main())
        self.assertLess(time.monotonic() - begun, BOUNDED_S)

    def test_a_conversion_that_hangs_ends_with_the_block(self) -> None:
        server, resolver = self.server(), self.resolver()
        errors: list[Exception] = []
        client = Client([resolver.url(server), server.url], timeout=600)

        def convert() -> None:
            try:
                lock.convert("EX", wait=600)
            except LockLost as error:
                errors.append(error)

        with client.lock("a", lifetime=60) as lock:
            before = resolver.asked
            resolver.speaks.clear()
            converting = threading.Thread(target=convert)
            with mock.patch("rdlm_client._http.CONNECT_S", 600):
                converting.start()
                wait_until("it is looked up", lambda: resolver.asked > before)
        converting.join(BOUNDED_S)
        self.assertEqual([str(error) for error in errors], [OUTSIDE])
        self.assertEqual(server.locks("a"), [])

    def test_all_that_ask_for_a_host_share_a_look_up(self) -> None:
        server, resolver = self.server(), self.resolver()
        resolver.speaks.clear()
        client = Client(resolver.url(server), timeout=1)
        names = [f"a{number}" for number in range(20)]

        def enter(name: str) -> None:
            with client.lock(name, wait=60):
                pass

        entering = [threading.Thread(target=enter, args=[name]) for name in names]
        with self.assertLogs("rdlm_client", "INFO") as logs:
            for thread in entering:
                thread.start()
            again = "the request for (a[0-9]+) is sent again: cannot reach"

            def have_asked_again() -> bool:
                return {*re.findall(again, "".join(logs.output))} == {*names}

            wait_until("all have given up, and ask again", have_asked_again)
        resolver.speaks.set()
        for thread in entering:
            thread.join(PATIENCE_S)
        self.assertFalse(any(server.locks(name) for name in names))
        self.assertEqual(resolver.most, 1)

    def test_another_server_is_asked_in_time(self) -> None:
        server, resolver = self.server(), self.resolver()
        proxy = self.proxy(server)
        resolver.speaks.clear()
        with Client([resolver.url(server), proxy.url], timeout=1).lock("a", wait=0):
            self.assertEqual(len(proxy.requests), 1)

    def test_a_host_is_looked_up_where_no_thread_can_be_started(self) -> None:
        server, resolver = self.server(), self.resolver()
        with Client(resolver.url(server)).lock("a", lifetime=1.5) as lock:
            with mock.patch("rdlm_client._names.begin", side_effect=RuntimeError):
                server.await_renewal("a")
                lock.check()

    def test_a_forked_child_does_not_wait_for_a_look_up_of_its_parent(self) -> None:
        server = self.server()
        script = self.script(
            server.url.replace("127.0.0.1", "localhost"),
            """
import socket, threading
system, silent, asked = socket.getaddrinfo, threading.Event(), threading.Event()
def look_up(host, *arguments, flags=0, **options):
    if not flags:
        asked.set()
        silent.wait()
    return system(host, *arguments, flags=flags, **options)
socket.getaddrinfo = look_up
client = Client()
threading.Thread(target=lambda: client.lock("a").__enter__(), daemon=True).start()
asked.wait()
if os.fork() == 0:
    socket.getaddrinfo = system
    with client.lock("b", wait=0) as lock:
        print("held")
    os._exit(0)
os.wait()
os._exit(0)
""",
        )
        self.assertEqual(script.line(), "held")


if __name__ == "__main__":
    unittest.main()
