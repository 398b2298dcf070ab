"""The life of a lock with a Python library: life.py LIBRARY URL."""

import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request

library, base = sys.argv[1:]


class Urllib:
    Timeout = OSError

    def call(self, method, url, body=None, timeout=60):
        request = urllib.request.Request(url, data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as answer:
            return answer.status, answer.headers, answer.read()


class HttpClient:
    """What comes with Python, a connection kept."""

    Timeout = OSError

    def __init__(self):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc)

    def call(self, method, url, body=None, timeout=60):
        self.connection.timeout = timeout
        if self.connection.sock:
            self.connection.sock.settimeout(timeout)
        try:
            self.connection.request(method, urllib.parse.urlsplit(url).path, body)
            answer = self.connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except OSError:
            self.connection.close()
            raise


class Requests:
    def __init__(self):
        import requests

        self.Timeout = requests.exceptions.Timeout
        self.session = requests.Session()

    def call(self, method, url, body=None, timeout=60):
        answer = self.session.request(method, url, data=body, timeout=timeout)
        return answer.status_code, answer.headers, answer.content


class Urllib3:
    def __init__(self):
        import urllib3

        self.Timeout = urllib3.exceptions.TimeoutError
        self.pool = urllib3.PoolManager(retries=False)

    def call(self, method, url, body=None, timeout=60):
        answer = self.pool.request(method, url, body=body, timeout=timeout)
        return answer.status, answer.headers, answer.data


class Httpx:
    def __init__(self):
        import httpx

        self.Timeout = httpx.TimeoutException
        self.client = httpx.Client()

    def call(self, method, url, body=None, timeout=60):
        answer = self.client.request(method, url, content=body, timeout=timeout)
        return answer.status_code, answer.headers, answer.content


libraries = {
    "urllib": Urllib,
    "http.client": HttpClient,
    "requests": Requests,
    "urllib3": Urllib3,
    "httpx": Httpx,
}
client = libraries[library]()


def lock(wait, lifetime):
    return json.dumps({"title": library, "wait": wait, "lifetime": lifetime}).encode()


def expect(status, method, path, body=None):
    found, headers, content = client.call(method, base + path, body)
    if found != status:
        sys.exit(f"{method} {path}: {found} in place of {status}: {content!r}")
    return headers, content


expect(201, "POST", "/locks/life", lock(0, 1))
expect(408, "POST", "/locks/life", lock(0.2, 60))
headers, content = expect(201, "POST", "/locks/life", lock(30, 60))
path = urllib.parse.urlsplit(headers["Location"]).path
assert json.loads(content)["active"] is True
_, content = expect(200, "PATCH", path, b'{"lifetime":30}')
assert json.loads(content)["lifetime"] == 30
expect(200, "GET", path)
try:
    client.call("POST", base + "/locks/life", lock(30, 60), timeout=0.5)
    sys.exit("there was no time-out")
except client.Timeout:
    pass
expect(204, "DELETE", path)
expect(404, "DELETE", path)
expect(413, "POST", "/locks/life", b" " * 70_000)
for _ in range(100):
    expect(200, "GET", "/")
