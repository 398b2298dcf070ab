"""Terraform's backend `http` with rdlm as the server of its locks."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE = 60
LOGIN = {"Authorization": "Basic " + base64.b64encode(b"carol:secret").decode()}


class State(http.server.BaseHTTPRequestHandler):
    """Keeps a state in memory, and no locks."""

    states: dict[str, bytes] = {}

    def do_GET(self) -> None:
        state = self.states.get(self.name())
        self.answer(404 if state is None else 200, state or b"")

    def do_POST(self) -> None:
        self.states[self.name()] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b"")

    def name(self) -> str:
        # An ID of the lock follows.
        return self.path.split("?")[0]

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """An rdlm server, which may be killed and started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.options = ["--data-dir", str(directory / "locks"), *options]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [os.environ["RDLM_BINARY"], "serve", "--bind", "127.0.0.1"]
        command += ["--port", str(self.port), "--logging", "error", *self.options]
        self.process = subprocess.Popen(command)
        wait_until(lambda: self.request("GET", "/health")[0] == 200)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            try:
                text = None if body is None else json.dumps(body)
                connection.request(method, path, text, headers or {})
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except OSError:
                return 0, ""

    def locks(self) -> list[dict[str, object]]:
        listed = json.loads(self.request("GET", "/resources/infra:prod", headers=LOGIN)[1])
        return listed.get("_embedded", {}).get("locks", [])


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


class Terraform(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.directory = Path(scratch.name)
        states = http.server.ThreadingHTTPServer(("127.0.0.1", 0), State)
        threading.Thread(target=states.serve_forever, daemon=True).start()
        self.addCleanup(states.server_close)
        self.addCleanup(states.shutdown)
        State.states.clear()
        self.state = f"http://127.0.0.1:{states.server_port}/state"

    def server(self, *options: str) -> Server:
        server = Server(self.directory, *options)
        self.addCleanup(lambda: server.kill())
        return server

    def project(self, server: Server, name: str, query: str = "", seconds: float = 0) -> Path:
        """A configuration whose apply takes so long, and that is initialized."""
        project = self.directory / name
        project.mkdir()
        lock = f"http://127.0.0.1:{server.port}/locks/infra:prod"
        (project / "main.tf").write_text(
            f"""
            terraform {{
              backend "http" {{
                address        = "{self.state}"
                lock_address   = "{lock}{query}"
                unlock_address = "{lock}"
                retry_wait_min = 1
                retry_wait_max = 1
              }}
            }}
            resource "terraform_data" "it" {{
              input = "{name}"
              provisioner "local-exec" {{ command = "echo at work; exec sleep {seconds}" }}
            }}
            """
        )
        self.run_to_end(project, "init", "-input=false")
        return project

    def start(self, project: Path, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "terraform.py"), words[0], "-no-color", *words[1:]]
        process = subprocess.Popen(
            command,
            cwd=project,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        # What it has begun, too.
        self.addCleanup(lambda: kill_group(process.pid))
        return process

    def end(self, process: subprocess.Popen[str], code: int) -> str:
        said = process.communicate(timeout=PATIENCE)[0]
        self.assertEqual(process.returncode, code, said)
        return said

    def run_to_end(self, project: Path, *words: str, code: int = 0) -> str:
        return self.end(self.start(project, *words), code)

    def apply(self, project: Path, *words: str, code: int = 0) -> str:
        return self.run_to_end(project, "apply", "-auto-approve", "-input=false", *words, code=code)

    def hold(self, server: Server, query: str = "") -> subprocess.Popen[str]:
        """An apply that is at work."""
        project = self.project(server, "holder", query, seconds=600)
        holder = self.start(project, "apply", "-auto-approve", "-input=false")
        wait_until(lambda: server.locks())
        return holder

    def test_an_apply_locks_and_unlocks(self) -> None:
        server = self.server()
        self.apply(self.project(server, "one"))
        self.assertEqual(server.locks(), [])
        self.assertIn(b'"one"', State.states["/state"])

    def test_the_second_of_two_is_told_who_has_the_lock(self) -> None:
        server = self.server()
        self.hold(server)
        second = self.project(server, "second")
        said = self.apply(second, code=1)
        self.assertIn("Error acquiring the state lock", said)
        self.assertRegex(said, r"Who:\s+\S+@\S+")
        self.assertRegex(said, r"Operation:\s+OperationTypeApply")
        self.assertRegex(said, r"ID:\s+[0-9a-f-]{36}")
        self.assertEqual(len(server.locks()), 1)

    def test_it_waits_where_it_is_told_to(self) -> None:
        server = self.server()
        holder = self.hold(server)
        # Once by Terraform, which asks again, and once in line.
        asking = self.start(
            self.project(server, "asking"), "apply", "-auto-approve", "-lock-timeout=60s"
        )
        waiting = self.start(self.project(server, "waiting", "?wait=60"), "apply", "-auto-approve")
        wait_until(lambda: len(server.locks()) == 2)
        for process in asking, waiting:
            self.assertIsNone(process.poll())
        holder.kill()
        server.request("DELETE", str(server.locks()[0]["_links"]["self"]["href"]))
        for process in waiting, asking:
            self.end(process, 0)
        self.assertEqual(server.locks(), [])

    def test_the_lock_of_a_dead_runner_expires_if_it_may(self) -> None:
        server = self.server()
        self.hold(server, "?lifetime=2").kill()
        self.assertEqual(server.locks()[0]["lifetime"], 2)
        self.apply(self.project(server, "next", "?wait=60"))

    def test_the_lock_of_a_dead_runner_is_forced(self) -> None:
        users = self.directory / "users"
        users.write_text("carol:secret\n")
        server = self.server("--admin-userpass-file", str(users))
        self.hold(server).kill()
        following = self.project(server, "next")
        lock_id = re.search(r"ID:\s+(\S+)", self.apply(following, code=1)).group(1)
        force = ["force-unlock", "-force", lock_id]
        said = self.run_to_end(following, *force, code=1)
        self.assertIn("401", said)
        (following / "login_override.tf").write_text(
            'terraform {\n  backend "http" {\n    username = "carol"\n    password = "secret"\n'
            + re.search(r"address.*?\n\s*}", (following / "main.tf").read_text(), re.S).group(0)
            + "\n}\n"
        )
        self.run_to_end(following, "init", "-input=false", "-reconfigure")
        self.run_to_end(following, *force)
        self.apply(following)

    def test_the_server_may_be_killed_in_the_middle_of_an_apply(self) -> None:
        server = self.server()
        project = self.project(server, "one", seconds=3)
        process = self.start(project, "apply", "-auto-approve", "-input=false")
        wait_until(lambda: server.locks())
        server.kill()
        server.start()
        self.assertEqual(len(server.locks()), 1)
        self.assertIn("Apply complete", self.end(process, 0))
        self.assertEqual(server.locks(), [])

    def test_a_native_holder_is_waited_for_and_told_of(self) -> None:
        server = self.server()
        wanted = {"title": "a shell", "wait": 0, "lifetime": 600}
        self.assertEqual(server.request("POST", "/locks/infra:prod", wanted)[0], 201)
        project = self.project(server, "one")
        said = self.apply(project, code=1)
        self.assertRegex(said, r"Who:\s+a shell")
        self.assertRegex(said, r"ID:\s+rdlm-\d+")
        uid = server.locks()[0]["uid"]
        self.assertNotIn(uid, said)

    def test_a_lock_that_was_deleted_meanwhile_is_an_error(self) -> None:
        server = self.server()
        project = self.project(server, "one", seconds=3)
        process = self.start(project, "apply", "-auto-approve", "-input=false")
        wait_until(lambda: server.locks())
        server.request("DELETE", "/resources/infra:prod")
        wanted = {"title": "a shell", "wait": 0, "lifetime": 600}
        self.assertEqual(server.request("POST", "/locks/infra:prod", wanted)[0], 201)
        said = self.end(process, 1)
        self.assertIn("Error releasing the state lock", said)
        self.assertEqual(len(server.locks()), 1)

    def test_an_answer_that_is_cut_off_is_asked_for_again(self) -> None:
        server = self.server()
        port = cutting_proxy(self, server.port)
        real, server.port = server.port, port
        project = self.project(server, "one")
        server.port = real
        self.apply(project)
        self.assertEqual(server.locks(), [])


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def cutting_proxy(test: unittest.TestCase, port: int) -> int:
    """A proxy that answers the first LOCK by a 502 of its own when the server has done it."""
    listener = socket.create_server(("127.0.0.1", 0))
    test.addCleanup(listener.close)
    cut = threading.Event()

    def relay(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head + b"\ncontent-length: 0")[1])
            while len(body) < length:
                body += client.recv(65536)
            head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head) + b"\r\nConnection: close"
            server.sendall(head + b"\r\n\r\n" + body)
            answer = b""
            while piece := server.recv(65536):
                answer += piece
            if head.startswith(b"LOCK") and not cut.is_set():
                cut.set()
                answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            client.sendall(answer)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                threading.Thread(target=relay, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


if __name__ == "__main__":
    signal.alarm(600)
    unittest.main()
