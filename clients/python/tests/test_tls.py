"""TLS: whom the client trusts, and as whom it is known."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import unittest
from pathlib import Path
from typing import Any

from harness import PATIENCE_S, Server, TestCase, read_request

from rdlm_client import Client, ServerError


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=PATIENCE_S)


def certificate(directory: Path, name: str, *, of: str | None = None) -> Path:
    """A certificate for localhost and its key, in one file; by itself or by another one."""
    both, key, public = (directory / f"{name}.{kind}" for kind in ("pem", "key", "crt"))
    by = []
    if of is not None:
        by = ["-CA", f"{directory}/{of}.crt", "-CAkey", f"{directory}/{of}.key"]
        by += ["-addext", "basicConstraints=critical,CA:FALSE"]
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost", "-days", "2"),
        *("-keyout", str(key), "-out", str(public), *by),
    )
    both.write_text(key.read_text() + public.read_text())
    return both


class TlsProxy:
    """Speaks TLS with clients, and HTTP with the server."""

    def __init__(self, to: Server, own: Path, client_ca: Path | None = None) -> None:
        self._to = to
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(own)
        if client_ca is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(client_ca)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"
        # The common names that clients have shown.
        self.names: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                plain = self._listener.accept()[0]
            except OSError:
                return
            with plain:
                try:
                    plain.settimeout(PATIENCE_S)
                    with self._context.wrap_socket(plain, server_side=True) as client:
                        self._serve(client)
                except OSError:
                    pass

    def _serve(self, client: ssl.SSLSocket) -> None:
        shown: dict[str, Any] = client.getpeercert() or {}
        self.names += [value for ((_, value),) in shown.get("subject", ())]
        request = read_request(client)
        with socket.create_connection(("127.0.0.1", self._to.port)) as server:
            server.sendall(request)
            while True:
                answer = server.recv(65536)
                if not answer:
                    return
                client.sendall(answer)


@unittest.skipUnless(shutil.which("openssl"), "there is no openssl to make certificates with")
class Tls(TestCase):
    def tls_proxy(self, to: Server, own: Path, client_ca: Path | None = None) -> TlsProxy:
        proxy = TlsProxy(to, own, client_ca)
        self.addCleanup(proxy.close)
        return proxy

    def test_a_server_of_an_authority_that_is_named_is_trusted_and_no_other(self) -> None:
        server = self.server()
        directory = self.directory()
        own = certificate(directory, "own")
        other = certificate(directory, "other")
        proxy = self.tls_proxy(server, own)
        with Client(proxy.url, ca_file=own).lock("a", lifetime=60) as lock:
            self.assertEqual(len(server.locks("a")), 1)
            self.assertTrue(lock.url.startswith(proxy.url))
        self.assertEqual(server.locks("a"), [])
        by_address = proxy.url.replace("localhost", "127.0.0.1")
        for client in (
            Client(proxy.url),
            Client(proxy.url, ca_file=other),
            Client(by_address, ca_file=own),
        ):
            with self.assertRaisesRegex(ServerError, "not to be trusted"):
                client.lock("a", wait=0).__enter__()
        self.assertEqual(server.locks("a"), [])
        # Another server is asked then.
        with Client([by_address, proxy.url], ca_file=own).lock("a", wait=0):
            self.assertEqual(len(server.locks("a")), 1)

    def test_the_client_shows_its_certificate(self) -> None:
        server = self.server()
        directory = self.directory()
        own = certificate(directory, "own")
        client = certificate(directory, "me")
        proxy = self.tls_proxy(server, own, client_ca=client)
        with Client(
            proxy.url,
            ca_file=own,
            cert_file=directory / "me.crt",
            key_file=directory / "me.key",
        ).lock("a", lifetime=60):
            self.assertEqual(proxy.names, ["me"])
        with self.assertRaises(ServerError):
            Client(proxy.url, ca_file=own).lock("a", wait=0).__enter__()

    def test_plain_http_to_a_tls_port_is_no_server(self) -> None:
        own = certificate(self.directory(), "own")
        proxy = self.tls_proxy(self.server(), own)
        with self.assertRaises(ServerError):
            Client(proxy.url.replace("https", "http")).lock("a", wait=0).__enter__()

    def test_tls_to_a_plain_port_is_no_server(self) -> None:
        url = self.server().url.replace("http", "https")
        with self.assertRaisesRegex(ServerError, "does not speak TLS: use http://"):
            Client(url).lock("a", wait=0).__enter__()


if __name__ == "__main__":
    unittest.main()
