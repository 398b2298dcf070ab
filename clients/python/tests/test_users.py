"""A server with a certificate of its own and a file of users."""

from __future__ import annotations

import json
import shutil
import ssl
import unittest
import urllib.request
from pathlib import Path
from typing import Any

from harness import PATIENCE_S, Server, TestCase
from test_tls import certificate

from rdlm_client import Client, ServerError

# The tokens are "t" and "w".
USERS = """
[user.deploy]
password = "s3cret"
token = "sha256:e3b98a4da31a127d4bde6e43033f66ba274cab0eb7eb1c70ec41402bf6273dd8"
may = ["lock deploy-*"]
[user.watch]
token = "sha256:50e721e49c013f00c62cf59f2163542a9d8df02464efeb615d31051b0fddc326"
may = ["see *"]
[user.localhost]
may = ["lock nightly"]
"""


class SecuredServer(Server):
    """Speaks TLS, and knows users; is looked at as the user `watch`."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.ca_file = certificate(directory, "own")
        (directory / "users.toml").write_text(USERS)
        super().__init__(
            *("--tls-cert", f"{directory}/own.crt", "--tls-key", f"{directory}/own.key"),
            *("--users", f"{directory}/users.toml", *options),
        )
        self.url = f"https://localhost:{self.port}"
        self._context = ssl.create_default_context(cafile=self.ca_file)

    def shows(self, directory: Path, name: str) -> None:
        """Which certificate those have who look at it."""
        self._context.load_cert_chain(directory / f"{name}.crt", directory / f"{name}.key")

    def request(self, method: str, path: str, body: str | None = None) -> Any:
        data = None if body is None else body.encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Authorization", "Bearer w")
        context, patience = self._context, PATIENCE_S
        with urllib.request.urlopen(request, timeout=patience, context=context) as response:
            return json.loads(response.read() or "null")


@unittest.skipUnless(shutil.which("openssl"), "there is no openssl to make certificates with")
class Users(TestCase):
    def secured(self, *options: str) -> tuple[SecuredServer, Path]:
        directory = self.directory()
        server = SecuredServer(directory, *options)
        self.addCleanup(server.kill)
        return server, directory

    def test_a_user_is_known_by_a_password_or_a_token_and_does_what_it_may(self) -> None:
        server, _ = self.secured()
        for client in (
            Client(server.url, ca_file=server.ca_file, user="deploy", password="s3cret"),
            Client(server.url, ca_file=server.ca_file, token="t"),
        ):
            with client.lock("deploy-web", lifetime=5):
                self.assertEqual(server.locks("deploy-web")[0]["user"], "deploy")
                server.await_renewal("deploy-web")
            self.assertEqual(server.locks("deploy-web"), [])
            with self.assertRaises(ServerError) as refused:
                client.lock("other", wait=0).__enter__()
            self.assertEqual(refused.exception.status, 403)
            self.assertIn('lacks the right "lock other"', str(refused.exception))

    def test_who_is_not_known_gets_no_lock(self) -> None:
        server, _ = self.secured()
        for client in (
            Client(server.url, ca_file=server.ca_file),
            Client(server.url, ca_file=server.ca_file, user="deploy", password="wrong"),
            Client(server.url, ca_file=server.ca_file, token="wrong"),
        ):
            with self.assertRaises(ServerError) as refused:
                client.lock("deploy-web", wait=0).__enter__()
            self.assertEqual(refused.exception.status, 401)
        self.assertEqual(server.locks("deploy-web"), [])

    def test_a_user_is_known_by_its_certificate(self) -> None:
        directory = self.directory()
        authority = certificate(directory, "authority")
        certificate(directory, "me", of="authority")
        server, _ = self.secured("--tls-client-ca", str(authority))
        server.shows(directory, "me")
        client = Client(
            server.url,
            ca_file=server.ca_file,
            cert_file=directory / "me.crt",
            key_file=directory / "me.key",
        )
        with client.lock("nightly"):
            # The name of a host comes first in the certificate.
            self.assertEqual(server.locks("nightly")[0]["user"], "localhost")
        with self.assertRaises(ServerError):
            Client(server.url, ca_file=server.ca_file).lock("nightly", wait=0).__enter__()


if __name__ == "__main__":
    unittest.main()
