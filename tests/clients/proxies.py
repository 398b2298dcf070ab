"""nginx, HAProxy and Apache before the server, as docs/operations.md configures them."""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from relay import Relay
from server import PATIENCE_S, Server, wait_until

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs/operations.md"

# Where Debian and others have Apache's modules.
APACHE_MODULES = ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules"]
WANTED_MODULES = "mpm_event unixd authz_core socache_shmcb ssl proxy proxy_http".split()


def checks(binary, directory, skipped):
    """Each check that can be made here, with its name."""
    for proxy in [Nginx(), NginxWithTls(), HAProxy(), Apache()]:
        if not proxy.program():
            skipped(proxy.name, f"{proxy.programs[0]} is not installed")
        elif not shutil.which("openssl"):
            skipped(proxy.name, "openssl, which makes a certificate, is not installed")
        else:
            for check in [through, slashes, kept, too_short, leaving]:
                name = f"{proxy.name}: {check.__doc__}"
                yield name, lambda check=check, proxy=proxy: attempt(check, Chain, proxy, binary)


def attempt(check, chain, proxy, binary):
    with tempfile.TemporaryDirectory() as directory, chain(proxy, binary, Path(directory)) as built:
        check(built)


class Chain(contextlib.ExitStack):
    """A client, TLS to the proxy, a relay that counts connections, the server."""

    def __init__(self, proxy, binary, directory):
        super().__init__()
        self.proxy, self.directory = proxy, directory
        self.port = free_port()
        self.base = f"https://localhost:{self.port}/rdlm"
        options = ["--base-url", self.base, "--trusted-proxy", "127.0.0.1"]
        make_certificate(directory)
        self.context = ssl.create_default_context(cafile=directory / "locks.crt")
        tls = None
        if proxy.encrypts:
            options += ["--tls-cert", directory / "locks.crt", "--tls-key", directory / "locks.key"]
            tls = self.context
        self.server = self.enter_context(Server(binary, *options, context=tls))
        self.relay = Relay(self.server.port)
        self.callback(self.relay.close)
        self.start()

    def start(self, **changes):
        """Starts the proxy; `changes` are of its configuration."""
        self.running = start(self.proxy, self, changes)
        self.callback(end, self.running)

    def restart(self, **changes):
        end(self.running)
        self.start(**changes)

    def client(self, timeout=PATIENCE_S):
        """A connection from an address that is no trusted proxy."""
        source = ("127.0.0.2", 0)
        return http.client.HTTPSConnection(
            "localhost", self.port, context=self.context, timeout=timeout, source_address=source
        )


def call(client, method, path, body=None):
    client.request(method, path, body and json.dumps(body))
    answer = client.getresponse()
    return answer.status, answer.headers, answer.read()


def expect(status, client, method, path, body=None):
    found, headers, content = call(client, method, path, body)
    assert found == status, f"{method} {path}: {found} in place of {status}: {content!r}"
    return headers, content


def lock(wait, lifetime):
    return {"title": "proxied", "wait": wait, "lifetime": lifetime}


def through(chain):
    """TLS, a path, a wait, URLs that work, the client's address"""
    client = chain.client()
    expect(201, client, "POST", "/rdlm/locks/a", lock(0, 1))
    expect(408, client, "POST", "/rdlm/locks/a", lock(0, 60))
    expect(201, client, "POST", "/rdlm/locks/a", lock(30, 1))
    wait_until("it expires", lambda: chain.server.locks("a") == [])
    headers, content = expect(201, client, "POST", "/rdlm/locks/a", lock(0, 60))
    assert headers["RDLM-Version"], headers
    location = headers["Location"]
    assert location.startswith(chain.base + "/locks/a/"), location
    path = urlsplit(location).path
    links = json.loads(content)["_links"]
    assert links["self"]["href"] == path, links
    expect(200, client, "PATCH", path, {"lifetime": 30})
    _, listed = expect(200, client, "GET", links["resource"]["href"])
    shown = json.loads(listed)["_embedded"]["locks"][0]["client"]
    assert shown == "127.0.0.2", f"the client is shown as {shown}"
    # What a page of the proxy's origin sends, and what one of another sends.
    for origin, status in [("https://evil.example", 403), (chain.base.removesuffix("/rdlm"), 204)]:
        client.request("DELETE", path, headers={"Origin": origin})
        answer = client.getresponse()
        answer.read()
        assert answer.status == status, f"from {origin}: {answer.status}"


def slashes(chain):
    """a name with a slash, its URL, a query"""
    client = chain.client()
    headers, _ = expect(201, client, "POST", "/rdlm/locks/org%2Fproj", lock(0, 60))
    location = headers["Location"]
    assert location.startswith(chain.base + "/locks/org%2Fproj/"), location
    _, listed = expect(200, client, "GET", "/rdlm/status?search=org%2Fp&limit=1")
    names = [resource["name"] for resource in json.loads(listed)["resources"]]
    assert names == ["org/proj"], names
    expect(204, client, "DELETE", urlsplit(location).path)


def kept(chain):
    """100 requests over few connections to the server"""
    client = chain.client()
    for _ in range(100):
        expect(200, client, "GET", "/rdlm/")
    assert chain.relay.connections <= 8, f"{chain.relay.connections} connections"


def too_short(chain):
    """a wait longer than its time-out gets its 502 or 504, and is out of the line"""
    chain.restart(hour="1s", seconds="1")
    client = chain.client()
    expect(201, client, "POST", "/rdlm/locks/a", lock(0, 60))
    status, headers, _ = call(client, "POST", "/rdlm/locks/a", lock(30, 60))
    assert status in (502, 504), status
    assert not headers["RDLM-Version"], "the answer is rdlm's, not the proxy's"
    wait_until("the request is out of the line", lambda: len(chain.server.locks("a")) == 1)


def leaving(chain):
    """a client that leaves while it waits"""
    client = chain.client()
    expect(201, client, "POST", "/rdlm/locks/a", lock(0, 60))
    waiting = chain.client()
    waiting.request("POST", "/rdlm/locks/a", json.dumps(lock(30, 60)))
    wait_until("it waits", lambda: len(chain.server.locks("a")) == 2)
    waiting.close()
    gone = lambda: len(chain.server.locks("a")) == 1
    if chain.proxy.passes_departures:
        wait_until("it is out of the line", gone, 5)
    else:
        try:
            wait_until("it is out of the line", gone, 2)
        except AssertionError:
            return
        raise AssertionError("it is out of the line: docs/operations.md says that it is not")


class Proxy:
    # It speaks TLS to rdlm, too.
    encrypts = False

    def program(self):
        found = (shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin") for p in self.programs)
        return next(filter(None, found), None)

    def block(self, chain, changes):
        """The configuration in the document, with what is different here."""
        block = re.search(f"```{self.language}\n(.*?)```", DOCUMENT.read_text(), re.S)[1]
        certificate, key = self.certificate(chain)
        for there, here in [
            ("127.0.0.1:8888", f"127.0.0.1:{chain.relay.port}"),
            ("/etc/ssl/locks.pem", certificate),
            ("/etc/ssl/locks.key", key),
            ("1h;", changes.get("hour", "1h") + ";"),
            ("timeout server 1h", "timeout server " + changes.get("hour", "1h")),
            ("timeout=3600", "timeout=" + changes.get("seconds", "3600")),
        ]:
            block = block.replace(there, str(here))
        return re.sub(r"(?<![\d.])443\b", str(chain.port), block)

    def certificate(self, chain):
        return chain.directory / "locks.crt", chain.directory / "locks.key"


class Nginx(Proxy):
    name, language, programs = "nginx", "nginx", ["nginx"]
    passes_departures = True

    def command(self, chain, changes):
        paths = "client_body proxy fastcgi uwsgi scgi".split()
        temporary = "".join(f"{p}_temp_path {chain.directory}/{p};" for p in paths)
        config = chain.directory / "nginx.conf"
        config.write_text(
            f"daemon off; pid {chain.directory}/pid; error_log stderr warn; events {{}}\n"
            f"http {{ access_log off; {temporary}\n{self.block(chain, changes)}}}\n"
        )
        return [self.program(), "-e", "stderr", "-p", chain.directory, "-c", config]


class NginxWithTls(Nginx):
    name, encrypts = "nginx with TLS to rdlm", True

    def block(self, chain, changes):
        """The same, with the lines that the document has for that."""
        lines = re.findall("```nginx\n(.*?)```", DOCUMENT.read_text(), re.S)[1]
        lines = lines.replace("/etc/ssl/rdlm-ca.pem", f"{chain.directory}/locks.crt")
        lines = lines.replace("locks.example.com", "localhost")
        return super().block(chain, changes).replace("proxy_pass http://rdlm$rdlm_uri;\n", lines)


class HAProxy(Proxy):
    name, language, programs = "HAProxy", "haproxy", ["haproxy"]
    passes_departures = True

    def certificate(self, chain):
        return chain.directory / "locks.pem", None

    def command(self, chain, changes):
        config = chain.directory / "haproxy.cfg"
        config.write_text(self.block(chain, changes))
        return [self.program(), "-db", "-f", config]


class Apache(Proxy):
    name, language, programs = "Apache", "apache", ["apache2", "httpd"]
    passes_departures = False

    def command(self, chain, changes):
        modules = next(filter(os.path.isdir, APACHE_MODULES))
        # Some are built in.
        there = [m for m in WANTED_MODULES if Path(modules, f"mod_{m}.so").exists()]
        lines = [f"LoadModule {m}_module {modules}/mod_{m}.so" for m in there]
        user = "User nobody\n" if os.getuid() == 0 else ""
        config = chain.directory / "apache.conf"
        config.write_text(
            "\n".join(lines) + f"\nServerRoot {chain.directory}\nServerName localhost\n"
            f"PidFile {chain.directory}/pid\nErrorLog /dev/stderr\n"
            f"DefaultRuntimeDir {chain.directory}\n{user}{self.block(chain, changes)}"
        )
        return [self.program(), "-DFOREGROUND", "-f", config]


def start(proxy, chain, changes):
    log = open(chain.directory / "proxy.log", "wb")
    with log:
        process = subprocess.Popen(
            proxy.command(chain, changes), stdout=log, stderr=log, start_new_session=True
        )

    def listens():
        if process.poll() is not None:
            raise AssertionError((chain.directory / "proxy.log").read_text())
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", chain.port)) == 0

    wait_until(f"{proxy.name} listens", listens)
    return process


def end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port():
    """A port that is free at this moment: the proxies take no 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificate(directory):
    certificate, key = directory / "locks.crt", directory / "locks.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-out", certificate, "-keyout", key]
        + ["-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )
    # Those that are not root read it, too.
    directory.chmod(0o755)
    (directory / "locks.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
