"""The play of docs/integrations.md, run by a real Ansible."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from server import Server

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs/integrations.md"
THERE = "http://locks.example.com:8888"

# What one play may take.
PLAY_S = 120


def checks(binary, ansible_playbook):
    """Each check that can be made here, with its name; `ansible_playbook` is the program, or None."""
    if ansible_playbook:
        for check in [works, fails, only_checks]:
            yield f"Ansible: {check.__doc__}", lambda check=check: attempt(
                check, binary, ansible_playbook
            )


def attempt(check, binary, ansible_playbook):
    with tempfile.TemporaryDirectory() as directory, Server(binary) as server:
        check(Play(server, Path(directory), ansible_playbook))


class Play:
    def __init__(self, server, directory, ansible_playbook):
        self.server, self.directory, self.program = server, directory, ansible_playbook
        self.seen = directory / "seen.json"
        self.url = f"http://127.0.0.1:{server.port}"
        block = re.search("```yaml\n(- hosts.*?)```", DOCUMENT.read_text(), re.S)[1]
        assert THERE in block
        (directory / "play.yml").write_text(block.replace(THERE, self.url))

    def run(self, task, *options):
        """Plays it with this task as its work, and returns whether that went well."""
        (self.directory / "work.yml").write_text(f"- {task}\n")
        played = subprocess.run(
            [self.program, *options, "play.yml"],
            cwd=self.directory,
            env=os.environ | {"HOSTNAME": "control", "ANSIBLE_HOME": str(self.directory)},
            capture_output=True,
            text=True,
            timeout=PLAY_S,
            check=False,
        )
        self.said = played.stdout + played.stderr
        assert self.server.locks("ansible-prod") == [], "a lock is left behind"
        return played.returncode == 0

    def look(self):
        """A task that notes who holds the lock."""
        return f"ansible.builtin.shell: curl -s {self.url}/resources/ansible-prod >{self.seen}"


def works(play):
    """it works under the lock, and releases it"""
    assert play.run(play.look()), play.said
    seen = play.seen.read_text()
    assert "ansible on control" in seen and '"active":true' in seen, seen


def fails(play):
    """work that fails releases it, too"""
    assert not play.run("ansible.builtin.command: 'false'")
    assert '"false"' in play.said or "non-zero return code" in play.said, play.said


def only_checks(play):
    """--check locks nothing, and does not fail"""
    assert play.run(play.look(), "--check"), play.said
    assert not play.seen.exists()
