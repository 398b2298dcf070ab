"""Signals, stops, forks and threads, to clients that are processes of their own."""

from __future__ import annotations

import os
import signal
import time
import unittest
from types import FrameType

from harness import Proxy, TestCase, wait_until

from rdlm_client import Client


class Stops(TestCase):
    def test_whoever_stood_still_past_the_lifetime_knows_at_once(self) -> None:
        server = self.server()
        script = self.script(
            server.url,
            """
with Client().lock("a", lifetime=1) as lock:
    print("held")
    input()
    assert lock.lost.is_set()
    try:
        lock.check()
    except LockLost as error:
        print(error)
""",
        )
        self.assertEqual(script.line(), "held")
        script.signal(signal.SIGSTOP)
        with Client(server.url).lock("a"):
            script.tell("go on")
            script.signal(signal.SIGCONT)
            self.assertIn("the lock on a is lost: no renewal got through", script.line())
            code, errors = script.end()
            self.assertEqual(code, 1)
            self.assertIn("LockLost", errors.splitlines()[-1])
            # The lock of somebody else is still there.
            self.assertEqual(len(server.locks("a")), 1)

    def test_an_answer_that_comes_after_the_end_does_not_bring_the_lock_back(self) -> None:
        proxy = self.proxy(self.server(), Proxy.PASS, Proxy.DELAY_ANSWER)
        script = self.script(
            proxy.url,
            """
with Client().lock("a", lifetime=3) as lock:
    print("held")
    input()
    for _ in range(50):
        time.sleep(0.01)
        assert lock.lost.is_set()
    print("lost")
    os._exit(0)
""",
        )
        self.assertEqual(script.line(), "held")
        ends = time.monotonic() + 3
        wait_until("a renewal", lambda: len(proxy.requests) == 2)
        script.signal(signal.SIGSTOP)
        # A busy machine lets its other threads run for a while.
        os.waitpid(script.process.pid, os.WUNTRACED)
        # The answer is there when it wakes up. By now, its lock may be that of somebody else.
        proxy.go_on.set()
        time.sleep(max(ends - time.monotonic(), 0))
        script.tell("go on")
        script.signal(signal.SIGCONT)
        self.assertEqual(script.line(), "lost")

    def test_a_wait_that_stood_still_past_the_lifetime_begins_with_a_lock_that_is_held(
        self,
    ) -> None:
        server = self.server()
        server.hold("a")
        script = self.script(
            server.url,
            """
with Client().lock("a", wait=60, lifetime=4) as lock:
    lock.check()
    print("held", lock.token)
    input()
""",
        )
        server.await_waiters("a")
        script.signal(signal.SIGSTOP)
        # Now it is granted, and expires.
        server.delete_first("a")
        wait_until("the lock has expired", lambda: not server.locks("a"))
        script.signal(signal.SIGCONT)
        held = script.line()
        self.assertEqual(held, f"held {server.locks('a')[0]['fencing_token']}")
        script.tell("go on")
        self.assertEqual(script.end()[0], 0)


class Forks(TestCase):
    def test_a_forked_child_neither_renews_nor_releases(self) -> None:
        server = self.server()
        script = self.script(
            server.url,
            """
with Client().lock("a", lifetime=1.5) as lock:
    child = os.fork()
    if child:
        assert os.waitpid(child, 0) == (child, 0)
    else:
        try:
            lock.convert("PR")
        except RuntimeError:
            pass
        else:
            os._exit(1)
    if child:
        print("the child has left the block")
        input()
if child == 0:
    del lock
    sys.exit()
print("released")
""",
        )
        self.assertEqual(script.line(), "the child has left the block")
        server.await_renewal("a")
        script.tell("go on")
        self.assertEqual(script.line(), "released")
        self.assertEqual(script.end(), (0, ""))
        self.assertEqual(server.locks("a"), [])

    def test_a_child_does_not_keep_the_lock_of_a_parent_that_died(self) -> None:
        server = self.server()
        script = self.script(
            server.url,
            """
with Client().lock("a", lifetime=1) as lock:
    if os.fork() == 0:
        print("forked")
        assert lock.lost.wait(60)
        try:
            lock.check()
        except LockLost:
            print("lost in the child")
        os._exit(0)
    time.sleep(600)
""",
        )
        self.assertEqual(script.line(), "forked")
        script.process.kill()
        with Client(server.url).lock("a"):
            self.assertEqual(script.line(), "lost in the child")

    def test_a_child_takes_locks_of_its_own(self) -> None:
        server = self.server()
        script = self.script(
            server.url,
            """
client = Client()
with client.lock("a") as mine:
    child = os.fork()
    if child == 0:
        with client.lock("b") as own:
            own.check()
            print("held", own.token > mine.token)
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
""",
        )
        self.assertEqual(script.line(), "held True")
        self.assertEqual(script.end(), (0, ""))
        self.assertEqual(server.locks("a") + server.locks("b"), [])

    def test_a_connection_that_a_child_has_too_ends_with_the_wait(self) -> None:
        server = self.server()
        server.hold("a")
        script = self.script(
            server.url,
            """
import threading
parent_lives, parent = os.pipe()
def fork():
    input()
    if os.fork() == 0:
        os.close(parent)
        os.read(parent_lives, 1)
        os._exit(0)
    print("forked")
threading.Thread(target=fork, daemon=True).start()
with Client().lock("a", wait=60):
    pass
""",
        )
        server.await_waiters("a")
        script.tell("fork")
        self.assertEqual(script.line(), "forked")
        script.signal(signal.SIGINT)
        script.process.wait(60)
        self.assertEqual(len(server.locks("a")), 1)


class CtrlC(TestCase):
    def test_it_leaves_no_request_behind(self) -> None:
        server = self.server()
        server.hold("a")
        script = self.script(server.url, "with Client().lock('a', wait=60): pass")
        server.await_waiters("a")
        script.signal(signal.SIGINT)
        code, errors = script.end()
        self.assertEqual((code, errors.splitlines()[-1]), (-signal.SIGINT, "KeyboardInterrupt"))
        self.assertEqual(len(server.locks("a")), 1)

    def test_it_releases_the_lock_of_the_block(self) -> None:
        server = self.server()
        script = self.script(server.url, "with Client().lock('a'): print('held'); time.sleep(600)")
        self.assertEqual(script.line(), "held")
        script.signal(signal.SIGINT)
        self.assertEqual(script.end()[0], -signal.SIGINT)
        self.assertEqual(server.locks("a"), [])

    def test_it_ends_a_wait_that_nobody_answers(self) -> None:
        proxy = self.proxy(None, Proxy.SWALLOW)
        script = self.script(proxy.url, "with Client().lock('a', wait=600): pass")
        wait_until("the request is on its way", lambda: proxy.requests)
        begun = time.monotonic()
        script.signal(signal.SIGINT)
        self.assertEqual(script.end()[0], -signal.SIGINT)
        self.assertLess(time.monotonic() - begun, 20)

    def test_at_any_moment_it_leaves_nothing_behind(self) -> None:
        """Any exception that a signal raises: here those of a timer."""

        class Alarm(BaseException):
            pass

        def ring(_number: int, _frame: FrameType | None) -> None:
            raise Alarm

        server = self.server()
        server.hold("taken")
        client = Client(server.url)
        before = signal.signal(signal.SIGALRM, ring)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        for attempt in range(60):
            resource = "taken" if attempt % 2 else "free"
            try:
                # Once more after a while, for what rings in a finalizer, where it is ignored.
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + attempt * 0.0001, 2)
                with client.lock(resource, wait=60, title="a test"):
                    time.sleep(60)
            except Alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
            # What a signal interrupted in the last moment is released by a thread.
            wait_until("nothing of it is left", lambda: not server.locks("free"))
            wait_until("nothing of it is left", lambda: len(server.locks("taken")) == 1)

    def test_the_end_of_the_interpreter_releases_what_is_still_held(self) -> None:
        server = self.server()
        script = self.script(
            server.url,
            """
def hold():
    with Client().lock("a"):
        yield
holding = hold()
next(holding)
print("held")
""",
        )
        self.assertEqual(script.line(), "held")
        self.assertEqual(script.end()[0], 0)
        self.assertEqual(server.locks("a"), [])


class Resources(TestCase):
    def test_nothing_stays_open(self) -> None:
        server = self.server()
        script = self.script(
            server.url,
            """
client = Client()
def use():
    with client.lock("a", lifetime=60):
        try:
            with client.lock("a", wait=0):
                pass
        except NotGranted:
            pass
use()
def things():
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
before = things()
for _ in range(50):
    use()
ends = time.monotonic() + 60
while any(now > then for now, then in zip(things(), before)):
    assert time.monotonic() < ends, (before, things())
print("nothing")
""",
        )
        self.assertEqual(script.line(), "nothing")
        self.assertEqual(script.end(), (0, ""))


if __name__ == "__main__":
    unittest.main()
