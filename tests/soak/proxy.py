"""The proxy under test: its file, its process, what it shows of itself and what the kernel shows."""

import ctypes
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]

CONFIG = """\
[process]
drain-timeout = "20s"
[admin]
address = "unix:{directory}/admin.sock"
[access-log]
path = "{directory}/access.log"
format = "json"
[[listener]]
name = "web"
address = "127.0.0.1:{web}"
limits = {{ header-timeout = "3s" }}
[[listener]]
name = "tls"
address = "127.0.0.1:{tls}"
tls = {{ certificates = [{{ cert = "{directory}/site.pem", key = "{directory}/site.key" }}] }}
limits = {{ header-timeout = "3s" }}
[upstream.soak]
health = {{ path = "/healthz", interval = "500ms", timeout = "500ms", fall = 2 }}
retry = {{ attempts = 2, budget = {{ ratio = "100%", min-per-second = 1000 }} }}
timeout = {{ connect = "300ms", first-byte = "2s", idle = "5s" }}
breaker = {{ open = "1s", max-open = "2s" }}
slow-start = "1s"
servers = {{ {servers} }}
[[route]]
prefix = "/"
upstream = "soak"
"""




PR_SET_CHILD_SUBREAPER = 36
UPGRADED = re.compile(r"ERROR upgrade failed|upgrade: the new process is ready, this one ends pid=(\d+)")


class Proxy:
    def __init__(self, binary, directory, ports, servers):
        self.directory, self.ports, self.servers = directory, ports, servers
        self.binary = pathlib.Path(binary).resolve()
        self.file = directory / "evenkeel.toml"
        self.log = directory / "log"
        # A link, so that it can be replaced without writing to a file that runs.
        self.program = directory / "evenkeel"
        # Of every process that served, the one that serves now last.
        self.pids = []

    def text(self, weights):
        servers = ", ".join(
            f'"127.0.0.1:{server.port}" = {weight}' for server, weight in zip(self.servers, weights)
        )
        return CONFIG.format(directory=self.directory, servers=servers, **self.ports)

    def start(self):
        certificate = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        certificate += ["-nodes", "-days", "3650", "-subj", "/CN=soak.test"]
        certificate += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        certificate += ["-keyout", self.directory / "site.key", "-out", self.directory / "site.pem"]
        subprocess.run(certificate, check=True, stderr=subprocess.DEVNULL)
        self.file.write_text(self.text([1] * len(self.servers)))
        self.replace(self.binary)
        # Who takes the place of a process is its child, and ours when that has ended.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        command = [self.program, "run", "-c", self.file]
        self.first = subprocess.Popen(command, stderr=self.log.open("ab"), stdin=subprocess.DEVNULL)
        self.pids.append(self.first.pid)
        self.wait_for(lambda: " started " in self.log.read_text(), 20)

    def replace(self, binary):
        aside = self.directory / "evenkeel.new"
        aside.symlink_to(binary)
        aside.rename(self.program)

    def upgrade(self, broken):
        """Puts another process in its place; gives whether that worked. `broken`: it must not."""
        if broken:
            self.replace("/bin/false")
        before = len(UPGRADED.findall(self.log.read_text()))
        os.kill(self.pids[-1], signal.SIGUSR2)
        self.wait_for(lambda: len(UPGRADED.findall(self.log.read_text())) > before, 60)
        self.replace(self.binary)
        successor = UPGRADED.findall(self.log.read_text())[-1]
        if successor:
            self.pids.append(int(successor))
        return bool(successor)

    def wait_for(self, condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or not pathlib.Path(f"/proc/{self.pids[-1]}").exists():
                raise SystemExit(f"the proxy has ended, or does not do as told:\n{self.log.read_text()[-6000:]}")
            time.sleep(0.02)

    def stop(self):
        """Exit codes of all that served, the last after TERM."""
        os.kill(self.pids[-1], signal.SIGTERM)
        codes = [self.first.wait()]
        # Each is the parent of the next, which becomes ours when it ends: in this order.
        for pid in self.pids[1:]:
            try:
                codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            except ChildProcessError:
                # It was replaced and ended before its parent did, who knows its exit code.
                pass
        return codes

    def kill(self):
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def get(self, path):
        command = ["curl", "-sS", "--max-time", "5", "--unix-socket", self.directory / "admin.sock"]
        return subprocess.run([*command, f"http://localhost{path}"], check=True, capture_output=True).stdout.decode()

    def gauge(self, metrics, name):
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.M))

    def look(self):
        """Numbers that must not grow without end."""
        metrics, shown = self.get("/metrics"), json.loads(self.get("/status"))
        pid = self.pids[-1]
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return {
            "resident MB": round(int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024, 1),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(re.search(r"Threads:\s+(\d+)", status).group(1)),
            "tasks of workers": sum(shown["tasks"]["workers"]),
            "tasks of control": shown["tasks"]["control"],
            "client connections": int(self.gauge(metrics, "evenkeel_connections_active")),
            "requests in flight": int(self.gauge(metrics, "evenkeel_requests_in_flight")),
            "server connections": int(self.gauge(metrics, "evenkeel_upstream_connections_active")),
            "idle server connections": int(self.gauge(metrics, "evenkeel_upstream_connections_idle")),
            "queue": int(self.gauge(metrics, "evenkeel_upstream_queue_length")),
            "log lines dropped": int(self.gauge(metrics, "evenkeel_access_log_dropped_total")),
        }
