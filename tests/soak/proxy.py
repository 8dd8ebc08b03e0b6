"""The proxy under test: its file, its process, what it shows of itself and what the kernel shows."""

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
drain-timeout = "5s"
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


class Proxy:
    def __init__(self, binary, directory, ports, servers):
        self.binary, self.directory, self.ports, self.servers = binary, directory, ports, servers
        self.file = directory / "evenkeel.toml"
        self.log = directory / "log"
        self.process = None

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
        self.process = subprocess.Popen(
            [self.binary, "run", "-c", self.file], stderr=self.log.open("ab"), stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while " started " not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the proxy does not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def stop(self):
        """Its exit code after TERM."""
        os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(20)

    def get(self, path):
        command = ["curl", "-sS", "--max-time", "5", "--unix-socket", self.directory / "admin.sock"]
        return subprocess.run([*command, f"http://localhost{path}"], check=True, capture_output=True).stdout.decode()

    def gauge(self, metrics, name):
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.M))

    def look(self):
        """Numbers that must not grow without end."""
        metrics, shown = self.get("/metrics"), json.loads(self.get("/status"))
        pid = self.process.pid
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
