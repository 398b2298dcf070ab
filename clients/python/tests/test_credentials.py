"""Who a client says it is, and to whom it never says so."""

from __future__ import annotations

import os
import re
import unittest
from typing import Any
from unittest import mock

from harness import TestCase, answer

from rdlm_client import Client, ServerError


def refused(client: Client) -> ServerError:
    """What a server says that knows nobody."""
    try:
        client.lock("a", wait=0).__enter__()
    except ServerError as error:
        return error
    raise AssertionError("it was granted")


class Credentials(TestCase):
    def test_a_password_is_sent_and_never_printed(self) -> None:
        refusing = self.proxy(None, answer("401 Unauthorized", "Server: somebody"))
        url = refusing.url.replace("http://", "http://me:pa%2Fss@")
        client = Client(url)
        with self.assertRaises(ServerError) as refused:
            client.lock("a").__enter__()
        self.assertIn("Authorization: Basic bWU6cGEvc3M=\r\n", refusing.requests[0])
        for printed in (repr(client), str(refused.exception), repr(refused.exception)):
            self.assertNotRegex(printed, "pa.{0,3}ss")
            self.assertIn(refusing.url, printed)

    def test_a_user_or_a_token_is_sent(self) -> None:
        refusing = self.proxy(None, answer("403 Forbidden"))
        for client in (
            Client(refusing.url, user="me", password="secret"),
            Client(refusing.url, token="a-token"),
        ):
            with self.assertRaises(ServerError):
                client.lock("a").__enter__()
        sent = [re.findall("Authorization: (.*)\r", request) for request in refusing.requests]
        self.assertEqual(sent, [["Basic bWU6c2VjcmV0"], ["Bearer a-token"]])

    def test_a_line_end_behind_them_is_taken_away(self) -> None:
        refusing = self.proxy(None, answer("401 Unauthorized"))
        with mock.patch.dict(os.environ, {"RDLM_URL": f" {refusing.url}\r\n"}):
            refused(Client(token="a-token\n"))
            refused(Client(user="me\n", password=" a secret \r\n"))
        sent = [re.findall("Authorization: (.*)\r", request) for request in refusing.requests]
        # The blanks in a password are its own.
        self.assertEqual(sent, [["Bearer a-token"], ["Basic bWU6IGEgc2VjcmV0IA=="]])

    def test_what_cannot_be_sent_is_named_and_not_shown(self) -> None:
        url = "http://host"
        wrong_ones: list[tuple[str, dict[str, Any]]] = [
            ("token: is empty", {"token": " \n"}),
            ("token: has a character", {"token": "se cret"}),
            ("token: has a character", {"token": "secret\r\nX-Other: a"}),
            ("token: has a character", {"token": "secret\u00fc"}),
            ("expected a user or a token", {"token": "secret", "user": "secret"}),
            ("password: has a character", {"user": "me", "password": "secret\nsecret"}),
            ("password: has a character", {"user": "me", "password": "secret\udcff"}),
            ("user: has a character", {"user": "secret\0", "password": ""}),
            ("user: has a colon", {"user": "me:secret", "password": ""}),
            ("urls: expected the URL", {"urls": "http://me:sec/ret@host"}),
            ("urls: expected the URL", {"urls": "http://me:secret@[host"}),
            ("urls: expected the URL", {"urls": "http://me:secret@host#x"}),
            ("urls: expected the URL", {"urls": "http://me:secret@host/\nX: y"}),
            ("urls: password: has a character", {"urls": "http://me:secret%0Aa@host"}),
        ]
        for name, options in wrong_ones:
            with self.subTest(name), self.assertRaises(ValueError) as wrong:
                Client(**{"urls": url, **options})
            self.assertIn(name, str(wrong.exception))
            self.assertNotRegex(repr(wrong.exception), "se.?c.?ret")
            self.assertIsNone(wrong.exception.__cause__)
        with mock.patch.dict(os.environ, {"RDLM_URL": "locks:8888"}):
            with self.assertRaisesRegex(ValueError, "RDLM_URL: expected the URL"):
                Client()

    def test_what_a_redirection_says_is_shown_without_a_password_or_a_query(self) -> None:
        for location in ("https://me:secret@sso/in?code=secret", "https://me:secret@host{path}"):
            moved = answer("307 Temporary Redirect", f"Location: {location}")
            proxy = self.proxy(None, moved)
            with self.subTest(location):
                error = refused(Client(proxy.url))
                self.assertIn("https://", str(error))
                self.assertNotIn("secret", repr(error))

    def test_no_part_of_a_client_shows_them(self) -> None:
        for client in (
            Client("http://me:secret@host"),
            Client("http://host", user="me", password="secret"),
            Client("http://host", token="secret"),
        ):
            server = client._servers._servers[0]
            encoded = (server.authorization or "").split()[1]
            self.assertNotIn(encoded, f"{client!r} {client._servers!r} {server!r}")


if __name__ == "__main__":
    unittest.main()
