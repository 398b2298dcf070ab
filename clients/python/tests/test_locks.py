"""What a user of one server without trouble sees."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
from typing import Any

from harness import HERE, PATIENCE_S, Server, TestCase, wait_until

from rdlm_client import Client, LockLost, NotGranted, ServerError


def is_there(server: Server, url: str) -> bool:
    try:
        server.request("GET", url[len(server.url) :])
    except urllib.error.HTTPError as error:
        error.close()
        return False
    return True


class Held(TestCase):
    def test_a_lock_is_held_in_its_block(self) -> None:
        server = self.server()
        with Client(server.url).lock("a", wait=60, lifetime=30) as lock:
            (held,) = server.locks("a")
            self.assertEqual(held["fencing_token"], lock.token)
            self.assertEqual(held["lifetime"], 30)
            self.assertTrue(is_there(server, lock.url))
            self.assertFalse(lock.lost.is_set())
            self.assertFalse(lock.lost.wait(0.01))
            lock.check()
        self.assertFalse(is_there(server, lock.url))
        self.assertFalse(lock.lost.is_set())
        with self.assertRaises(LockLost):
            lock.check()
        with Client(server.url).lock("a") as next_lock:
            self.assertGreater(next_lock.token, lock.token)

    def test_it_is_converted_to_another_mode(self) -> None:
        server = self.server()
        client = Client(server.url)
        with client.lock("a", mode="PR") as lock:
            with client.lock("a", mode="PR") as other:
                with self.assertRaisesRegex(NotGranted, "not granted"):
                    lock.convert("EX")
                with self.assertRaisesRegex(NotGranted, "not granted"):
                    lock.convert("EX", wait=0.1)
                writer = threading.Thread(target=lock.convert, args=("EX",), kwargs={"wait": 60})
                writer.start()
                wait_until("it waits", lambda: "converting_to" in server.locks("a")[0])
                with self.assertRaisesRegex(NotGranted, "deadlock"):
                    other.convert("EX", wait=60)
            writer.join(PATIENCE_S)
            (held,) = server.locks("a")
            self.assertEqual((held["mode"], held["fencing_token"]), ("EX", lock.token))
        with self.assertRaises(LockLost):
            lock.convert("PR")

    def test_it_is_released_whatever_the_block_raises(self) -> None:
        server = self.server()
        with self.assertRaisesRegex(KeyError, "of the block"), Client(server.url).lock("a"):
            raise KeyError("of the block")
        self.assertEqual(server.locks("a"), [])

    def test_it_is_not_granted_while_somebody_else_holds_it(self) -> None:
        server = self.server()
        server.hold("a")
        with self.assertRaisesRegex(NotGranted, "not granted"):
            Client(server.url).lock("a", wait=0).__enter__()
        begun = time.monotonic()
        with self.assertRaises(NotGranted):
            Client(server.url).lock("a", wait=0.5).__enter__()
        self.assertGreaterEqual(time.monotonic() - begun, 0.5)
        self.assertEqual(len(server.locks("a")), 1)

    def test_a_request_that_is_deleted_is_not_granted(self) -> None:
        server = self.server()
        server.hold("a")

        def delete() -> None:
            server.await_waiters("a")
            server.delete("a")

        deleting = threading.Thread(target=delete)
        deleting.start()
        self.addCleanup(deleting.join)
        with self.assertRaisesRegex(NotGranted, "deleted"):
            Client(server.url).lock("a").__enter__()

    def test_it_is_renewed_as_long_as_the_block_runs(self) -> None:
        server = self.server()
        with Client(server.url).lock("a", lifetime=3) as lock:
            server.await_renewal("a")
            server.await_renewal("a")
            lock.check()
        self.assertFalse(lock.lost.is_set())

    def test_readers_share_it_and_semaphores_count(self) -> None:
        server = self.server()
        client = Client(server.url)
        with client.lock("a", mode="shared"), client.lock("a", mode="shared"):
            with self.assertRaises(NotGranted):
                client.lock("a", wait=0).__enter__()
        with client.lock("b", limit=2), client.lock("b", limit=2):
            with self.assertRaises(NotGranted):
                client.lock("b", limit=2, wait=0).__enter__()
            with self.assertRaisesRegex(ServerError, "limit 2") as refused:
                client.lock("b", limit=3).__enter__()
        self.assertEqual(refused.exception.status, 422)

    def test_each_call_of_a_decorated_function_has_a_lock_of_its_own(self) -> None:
        server = self.server()

        @Client(server.url).locked("a", wait=0, title="a test")
        def held(more: int = 0) -> list[Any]:
            """Looks."""
            if more:
                return held(more - 1)
            return server.locks("a")

        self.assertEqual([lock["title"] for lock in held()], ["a test"])
        self.assertEqual(held.__doc__, "Looks.")
        with self.assertRaises(NotGranted):
            held(more=1)
        self.assertEqual(server.locks("a"), [])

    def test_what_runs_after_its_call_is_not_decorated(self) -> None:
        async def coroutine() -> None:
            await asyncio.sleep(0)

        def generator() -> Any:
            yield

        for function in (coroutine, generator):
            with self.assertRaises(TypeError):
                Client().locked("a")(function)

    def test_a_lock_is_for_one_block(self) -> None:
        lock = Client(self.server().url).lock("a")
        with self.assertRaises(RuntimeError):
            _ = lock.token
        with lock, self.assertRaises(RuntimeError):
            lock.__enter__()
        with self.assertRaises(RuntimeError):
            lock.__enter__()

    def test_a_lock_that_nobody_can_leave_is_released(self) -> None:
        server = self.server()
        lock = Client(server.url).lock("a")
        lock.__enter__()
        self.assertEqual(len(server.locks("a")), 1)
        del lock
        gc.collect()
        wait_until("the lock is released", lambda: not server.locks("a"))

    def test_threads_have_it_one_after_the_other(self) -> None:
        server = self.server()
        client = Client(server.url)
        tokens: list[int] = []
        inside = []

        def work() -> None:
            for _ in range(10):
                with client.lock("a") as lock:
                    inside.append(lock.token)
                    tokens.append(lock.token)
                    time.sleep(0.001)
                    self.assertEqual(inside, [lock.token])
                    inside.clear()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(tokens), 80)
        self.assertEqual(tokens, sorted(tokens))
        self.assertEqual(server.locks("a"), [])


class Lost(TestCase):
    def test_whoever_is_deleted_is_told(self) -> None:
        server = self.server()
        told: list[int] = []
        with self.assertRaisesRegex(LockLost, "the lock on a is lost: it was deleted"):
            with Client(server.url).lock(
                "a", lifetime=1.5, on_lost=lambda: told.append(threading.get_ident())
            ) as lock:
                server.delete("a")
                self.assertTrue(lock.lost.wait(60))
                self.assertTrue(lock.lost.is_set())
                with self.assertRaises(LockLost):
                    lock.check()
        self.assertEqual(len(told), 1)
        self.assertNotEqual(told[0], threading.get_ident())
        self.assertTrue(lock.lost.is_set())

    def test_the_loss_says_who_has_deleted_the_lock_and_why(self) -> None:
        server = self.server()
        with self.assertRaisesRegex(LockLost, "it was deleted by 127.0.0.1: nobody is there$"):
            with Client(server.url).lock("a", lifetime=1) as lock:
                server.request("DELETE", "/resources/a?reason=nobody%20is%20there")
                lock.lost.wait(PATIENCE_S)

    def test_what_the_block_raises_goes_before_the_loss(self) -> None:
        server = self.server()
        with self.assertRaisesRegex(KeyError, "of the block"):
            with Client(server.url).lock("a", lifetime=0.5) as lock:
                server.delete("a")
                lock.lost.wait(60)
                raise KeyError("of the block")

    def test_a_loss_that_only_the_release_finds_is_one(self) -> None:
        server = self.server()
        told: list[int] = []
        with self.assertRaisesRegex(LockLost, "gone when it was to be released"):
            with Client(server.url).lock("a", lifetime=60, on_lost=lambda: told.append(1)):
                server.delete("a")
        # Nothing runs any more that could be stopped.
        self.assertEqual(told, [])

    def test_an_error_of_on_lost_is_logged_and_does_no_harm(self) -> None:
        server = self.server()
        with self.assertLogs("rdlm_client", logging.WARNING) as logs:
            with self.assertRaises(LockLost):
                with Client(server.url).lock("a", lifetime=0.5, on_lost=lambda: 1 // 0) as lock:
                    server.delete("a")
                    lock.lost.wait(60)
        self.assertIn("ZeroDivisionError", "".join(logs.output))


class Said(TestCase):
    def test_it_needs_nothing_but_python(self) -> None:
        code = f"import sys; sys.path.insert(0, {str(HERE.parent)!r}); import rdlm_client.aio"
        subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=PATIENCE_S)

    def test_what_cannot_be_meant_is_refused(self) -> None:
        client = Client()
        for wrong in (
            lambda: client.lock(""),
            lambda: client.lock("a", wait=-1),
            lambda: client.lock("a", wait=float("nan")),
            lambda: client.lock("a", lifetime=0),
            lambda: client.lock("a", lifetime=float("inf")),
            lambda: Client([]),
            lambda: Client("ftp://host"),
            lambda: Client("http://host/?query"),
            lambda: Client("http://a, not a url"),
            lambda: Client("http://host", timeout=0),
        ):
            with self.assertRaises(ValueError):
                wrong()

    def test_what_the_server_refuses_is_told_in_its_words(self) -> None:
        server = self.server("--max-wait", "10")
        with self.assertRaisesRegex(ServerError, "wait is 60") as refused:
            Client(server.url).lock("a").__enter__()
        self.assertEqual(refused.exception.status, 400)

    def test_a_name_is_sent_as_it_is_and_a_long_title_is_cut(self) -> None:
        server = self.server()
        with Client(server.url + "/").lock("a.b_c:d~e@f-g", title="ü" * 600):
            (held,) = server.locks("a.b_c:d~e@f-g")
        self.assertEqual(held["title"], "ü" * 512)
        with self.assertRaisesRegex(ServerError, "name"):
            Client(server.url).lock("a b").__enter__()
        with Client(server.url).lock("own"):
            (held,) = server.locks("own")
        self.assertRegex(held["title"], r"^\S+@\S+: \S+")


if __name__ == "__main__":
    unittest.main()
