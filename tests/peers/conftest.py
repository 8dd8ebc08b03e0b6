"""A proxy in front of servers of other people's making, for clients of other people's making.

`python -m pytest tests/peers` with the packages of `requirements.txt`; `EVENKEEL_BIN` names the
binary, by default that of the debug build.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import time
import urllib.request

import pytest
import trustme

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("EVENKEEL_BIN", ROOT / "target" / "debug" / "evenkeel")


class Proxy:
    """One proxy in a folder of its own, ready when it is made."""

    def __init__(self, directory, config):
        self.directory = directory
        self.file = directory / "evenkeel.toml"
        self.file.write_text('[admin]\naddress = "127.0.0.1:0"\n' + config)
        self.log = directory / "log"
        self.process = subprocess.Popen(
            [BINARY, "run", "-c", self.file], stderr=self.log.open("w")
        )
        self.wait_for(" started ")
        text = self.log.read_text()
        self.ports = {
            name: int(port)
            for name, port in re.findall(r'listening listener="(\w+)" address=\S+:(\d+)', text)
        }
        self.admin = re.search(r"admin listening address=(\S+)", text).group(1)

    def wait_for(self, text, seconds=20):
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.log.read_text()}"
            time.sleep(0.02)

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.admin}{path}") as answer:
            return answer.read().decode()

    def status(self):
        return json.loads(self.get("/status"))

    def metric(self, name, **labels):
        """The sum of a family's samples with these labels."""
        total = 0.0
        for line in self.get("/metrics").splitlines():
            match = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
            if not match or match.group(1) != name:
                continue
            got = dict(re.findall(r'(\w+)="([^"]*)"', match.group(2) or ""))
            if all(got.get(label) == value for label, value in labels.items()):
                total += float(match.group(3))
        return total

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(40)
        finally:
            self.process.kill()
        assert code == 0, f"exit code {code}:\n{self.log.read_text()}"
        assert "panic" not in self.log.read_text(), self.log.read_text()


@pytest.fixture
def proxy(tmp_path):
    """Starts proxies by their configuration; all of them end well."""
    with contextlib.ExitStack() as stack:

        def start(config):
            started = Proxy(tmp_path, config)
            stack.callback(started.stop)
            return started

        yield start


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture(scope="session")
def certificates(authority, tmp_path_factory):
    """A folder with ca.pem, and site.pem and site.key for localhost."""
    folder = tmp_path_factory.mktemp("certificates")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    with (folder / "site.pem").open("wb") as file:
        for blob in leaf.cert_chain_pems:
            file.write(blob.bytes())
    leaf.private_key_pem.write_to_path(folder / "site.key")
    return folder


def eventually(condition, seconds=20):
    """Waits for a condition, and fails without it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
