"""An rdlm server on a free port of the loopback, and what can be seen of it."""

import http.client
import json
import re
import subprocess
import time

# Long enough for anything on a busy machine.
PATIENCE_S = 30


class Server:
    def __init__(self, binary, *options, context=None):
        """`context` is that of TLS, if the options have a certificate."""
        self.context = context
        command = [binary, "serve", "--bind", "127.0.0.1", "--port", "0", "--logging", "info"]
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening on 127\.0\.0\.1:(\d+),", line):
                break
        else:
            raise SystemExit("the server did not start")
        self.port = int(found[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        # What it logged is not looked at.
        self.process.communicate(timeout=PATIENCE_S)

    def get(self, path):
        if self.context:
            options = {"timeout": PATIENCE_S, "context": self.context}
            connection = http.client.HTTPSConnection("localhost", self.port, **options)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", path)
        content = connection.getresponse().read()
        connection.close()
        return content.decode()

    def hold(self, resource):
        """Has somebody hold it who does not renew it."""
        self.call("POST", f"/locks/{resource}", '{"title":"somebody","wait":0,"lifetime":600}')

    def delete(self, path):
        self.call("DELETE", path)

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request(method, path, body)
        answer = connection.getresponse()
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.read()}"
        connection.close()

    def locks(self, resource):
        """The locks of a resource, the waiting ones last."""
        listed = json.loads(self.get(f"/resources/{resource}"))
        return listed.get("_embedded", {}).get("locks", [])

    def metric(self, series):
        """The value of a counter or gauge."""
        lines = self.get("/metrics").splitlines()
        return next(float(line[len(series) :]) for line in lines if line.startswith(series + " "))


def wait_until(what, condition, seconds=PATIENCE_S):
    """Looks again until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"in vain: {what}")
        time.sleep(0.02)
