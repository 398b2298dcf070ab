"""The same locks for asyncio."""

from __future__ import annotations

import asyncio
import gc
import time
import unittest
from collections.abc import Coroutine
from typing import Any

from harness import PATIENCE_S, Proxy, Server, TestCase, wait_until

from rdlm_client import LockLost as PlainLockLost
from rdlm_client.aio import Client, LockLost, NotGranted, ServerError


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    # In debug mode it tells of callbacks that hold up the loop, and of what is called across it.
    asyncio.run(coroutine, debug=True)


async def locks(server: Server, resource: str) -> list[dict[str, Any]]:
    return await asyncio.to_thread(server.locks, resource)


async def enter(lock: Any) -> None:
    async with lock:
        await asyncio.sleep(600)


class Aio(TestCase):
    def test_a_lock_is_held_in_its_block(self) -> None:
        server = self.server()

        async def main() -> None:
            async with Client(server.url).lock("a", wait=60, lifetime=30) as lock:
                (held,) = await locks(server, "a")
                self.assertEqual(held["fencing_token"], lock.token)
                self.assertTrue(lock.url.startswith(server.url))
                self.assertFalse(lock.lost.is_set())
                self.assertFalse(await lock.lost.wait(0.01))
                lock.check()
                watching = asyncio.create_task(lock.lost.wait())
                with self.assertRaises(NotGranted):
                    await Client(server.url).lock("a", wait=0).__aenter__()
            self.assertFalse(await watching)
            self.assertEqual(await locks(server, "a"), [])
            with self.assertRaises(LockLost):
                lock.check()
            with self.assertRaises(RuntimeError):
                await lock.__aenter__()

        run(main())

    def test_a_cancelled_conversion_leaves_the_lock_as_it_was(self) -> None:
        server = self.server()
        client = Client(server.url)

        def waits() -> bool:
            return "converting_to" in server.locks("a")[0]

        async def main() -> None:
            async with client.lock("a", mode="PR") as lock, client.lock("a", mode="PR"):
                with self.assertRaises(NotGranted):
                    await lock.convert("EX")
                writer = asyncio.create_task(lock.convert("EX", wait=600))
                await asyncio.to_thread(wait_until, "it waits", waits)
                writer.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await writer
                await asyncio.to_thread(wait_until, "it waits no more", lambda: not waits())
                self.assertEqual((await locks(server, "a"))[0]["mode"], "PR")
                await lock.convert("CR")
                self.assertEqual((await locks(server, "a"))[0]["mode"], "CR")

        run(asyncio.wait_for(main(), PATIENCE_S))

    def test_many_tasks_have_it_one_after_the_other(self) -> None:
        server = self.server()
        client = Client(server.url)
        inside: list[int] = []

        async def work() -> None:
            async with client.lock("a") as lock:
                inside.append(lock.token)
                await asyncio.sleep(0.001)
                self.assertEqual(inside.pop(), lock.token)
                self.assertEqual(inside, [])

        async def main() -> None:
            await asyncio.gather(*(work() for _ in range(30)))

        run(main())
        self.assertEqual(server.locks("a"), [])

    def test_whoever_is_deleted_is_told_by_the_loop(self) -> None:
        server = self.server()
        told: list[asyncio.Task[Any] | None] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()

            def on_lost() -> None:
                # Only the thread of the loop may do that.
                loop.call_soon(told.append, asyncio.current_task())

            with self.assertRaises(LockLost):
                async with Client(server.url).lock("a", lifetime=1.5, on_lost=on_lost) as lock:
                    await asyncio.to_thread(server.delete, "a")
                    self.assertTrue(await lock.lost.wait())
                    with self.assertRaises(PlainLockLost):
                        lock.check()
            with self.assertRaisesRegex(KeyError, "of the block"):
                async with Client(server.url).lock("a", lifetime=0.5) as lock:
                    await asyncio.to_thread(server.delete, "a")
                    await lock.lost.wait(60)
                    raise KeyError("of the block")

        run(main())
        self.assertEqual(told, [None])

    def test_a_loss_can_cancel_the_task(self) -> None:
        server = self.server()

        async def main() -> None:
            task = asyncio.current_task()
            assert task is not None
            with self.assertRaises(asyncio.CancelledError):
                async with Client(server.url).lock("a", lifetime=0.5, on_lost=task.cancel):
                    await asyncio.to_thread(server.delete, "a")
                    await asyncio.sleep(600)

        run(main())

    def test_it_is_renewed_while_the_loop_is_busy(self) -> None:
        server = self.server()

        async def main() -> None:
            async with Client(server.url).lock("a", lifetime=1.5) as lock:
                server.await_renewal("a")
                lock.check()

        asyncio.run(main())

    def test_a_cancelled_wait_leaves_no_request_behind(self) -> None:
        server = self.server()
        server.hold("a")

        async def main() -> None:
            waiting = asyncio.create_task(enter(Client(server.url).lock("a", wait=60)))
            await asyncio.to_thread(server.await_waiters, "a")
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            self.assertEqual(len(await locks(server, "a")), 1)
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(enter(Client(server.url).lock("a", wait=60)), 0.3)
            self.assertEqual(len(await locks(server, "a")), 1)

        run(main())

    def test_a_request_that_is_still_on_its_way_is_withdrawn_too(self) -> None:
        server = self.server()
        server.hold("a")
        proxy = self.proxy(server, Proxy.DELAY, Proxy.PASS)

        async def main() -> None:
            waiting = asyncio.create_task(enter(Client(proxy.url).lock("a", wait=60)))
            await asyncio.to_thread(wait_until, "it is sent", lambda: len(proxy.requests) == 1)
            waiting.cancel()
            await asyncio.to_thread(wait_until, "it is withdrawn", lambda: len(proxy.requests) > 1)
            proxy.go_on.set()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            self.assertEqual(len(await locks(server, "a")), 1)

        run(main())

    def test_a_wait_that_nobody_answers_can_be_cancelled(self) -> None:
        proxy = self.proxy(self.server(), Proxy.SWALLOW)

        async def main() -> None:
            waiting = asyncio.create_task(enter(Client(proxy.url).lock("a", wait=600)))
            await asyncio.to_thread(wait_until, "the request is sent", lambda: proxy.requests)
            begun = time.monotonic()
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            self.assertLess(time.monotonic() - begun, 20)

        run(main())

    def test_cancellation_at_any_moment_leaves_nothing_behind(self) -> None:
        server = self.server()
        server.hold("taken")
        client = Client(server.url)

        async def main() -> None:
            for attempt in range(40):
                resource = "taken" if attempt % 2 else "free"
                task = asyncio.create_task(enter(client.lock(resource, wait=60)))
                await asyncio.sleep(attempt * 0.0002)
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                self.assertEqual(await locks(server, "free"), [])
                self.assertEqual(len(await locks(server, "taken")), 1)

        asyncio.run(main())

    def test_the_end_of_the_loop_releases_what_a_task_still_holds(self) -> None:
        server = self.server()

        async def main() -> None:
            task = asyncio.create_task(enter(Client(server.url).lock("a")))
            await asyncio.to_thread(wait_until, "it is held", lambda: server.locks("a"))
            self.assertFalse(task.done())

        run(main())
        self.assertEqual(server.locks("a"), [])

    def test_a_lock_that_nobody_can_leave_is_released(self) -> None:
        server = self.server()

        async def main() -> None:
            await Client(server.url).lock("a").__aenter__()
            gc.collect()

        run(main())
        wait_until("the lock is released", lambda: not server.locks("a"))

    def test_each_call_of_a_decorated_coroutine_has_a_lock_of_its_own(self) -> None:
        server = self.server()
        client = Client(server.url)

        @client.locked("a", wait=0)
        async def held() -> int:
            return len(await locks(server, "a"))

        async def main() -> None:
            self.assertEqual([await held(), await held()], [1, 1])
            self.assertEqual(await locks(server, "a"), [])

        run(main())
        with self.assertRaises(TypeError):
            client.locked("a")(len)  # type: ignore[type-var]

    def test_what_the_server_refuses_is_told(self) -> None:
        server = self.server()

        async def main() -> None:
            with self.assertRaises(ServerError) as refused:
                await Client(server.url).lock("a b").__aenter__()
            self.assertEqual(refused.exception.status, 400)

        run(main())


if __name__ == "__main__":
    unittest.main()
