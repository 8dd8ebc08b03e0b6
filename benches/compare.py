#!/usr/bin/env python3
"""CPU time per proxied request, beside nginx and haproxy, in one interleaved run.

    cargo build --release
    sudo apt-get install nginx-light haproxy wrk
    python3 benches/compare.py [--rounds 5] [--seconds 4] [--scenario small,typical] [--access-log]

Seconds on a busy machine mean little; the user and system time that a process is charged for a
request, measured in turns (A B C, B C A, ...) against the same origin and the same load, holds.
The proxy has core 0 and one worker; origin (nginx) and load (wrk) share core 1. Our defaults stay
on: breaker, metrics, request ids, forwarding headers. `--access-log` adds a fourth proxy: ours,
writing its access log as JSON to a file.
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TICKS = os.sysconf("SC_CLK_TCK")
SERVERS = 3

TYPICAL_REQUEST = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "Referer": "https://shop.example.org/catalogue?page=2&sort=price",
    "Cookie": "session=4f9a1c77e0c94d1d9a2b7f3f6f1f2a90; theme=dark; consent=all; ab=17",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
    "Upgrade-Insecure-Requests": "1",
    "X-Trace": "6f1f2a904f9a1c77",
}
TYPICAL_RESPONSE = {
    "Cache-Control": "private, max-age=60", "ETag": "abc123-4096",
    "Vary": "Accept-Encoding, Cookie", "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
    "Strict-Transport-Security": "max-age=31536000", "X-Runtime": "0.004213",
}
SCENARIOS = {
    "small": ("/small", {}, "128-byte answer, keep-alive"),
    "typical": ("/typical", TYPICAL_REQUEST, "15 request fields, 12 response fields, 4 KiB, keep-alive"),
    "64k": ("/64k", {}, "64 KiB answer, keep-alive"),
    "large": ("/large", {}, "10 MiB answer, keep-alive"),
    "upload": ("/upload", {}, "1 MiB request body, keep-alive"),
    "newconn": ("/small", {"Connection": "close"}, "128-byte answer, a new connection for each request"),
}
# So that no answer waits seconds for its turn.
FEWER_CONNECTIONS = {"large": 8, "upload": 16}
UPLOAD = 'wrk.method = "POST"; wrk.body = string.rep("x", 1024 * 1024)'
TEMP = "client_body_temp_path {0}b; proxy_temp_path {0}p; fastcgi_temp_path {0}f; uwsgi_temp_path {0}u; scgi_temp_path {0}s;"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for(port, process, name, tries=200):
    for _ in range(tries):
        if process.poll() is not None:
            sys.exit(f"{name} ended with {process.returncode}; run it by hand to see why")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"{name} does not listen on port {port}")


def cpu_seconds(pid):
    """User and system time of a process and its children, in seconds."""
    total, todo = 0, [pid]
    while todo:
        pid = todo.pop()
        try:
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
            for task in os.listdir(f"/proc/{pid}/task"):
                todo += map(int, open(f"/proc/{pid}/task/{task}/children").read().split())
        except OSError:
            pass
    return total / TICKS


def start(command, core):
    quiet = subprocess.DEVNULL
    return subprocess.Popen(["taskset", "-c", str(core), *command], stdin=quiet, stdout=quiet, stderr=quiet)


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def origin(work, ports):
    for name, size in (("64k", 64 * 1024), ("large", 10 * 1024 * 1024)):
        write(f"{work}/{name}", "z" * size)
    fields = "".join(f'add_header {name} "{value}";' for name, value in TYPICAL_RESPONSE.items())
    write(f"{work}/origin.conf", f"""
daemon off; worker_processes 1; pid {work}/origin.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 600s; server_tokens off;
    {TEMP.format(work + "/o")}
    server {{
        {" ".join(f"listen 127.0.0.1:{port};" for port in ports)}
        location = /small {{ return 200 "{"x" * 128}"; }}
        client_max_body_size 2m; client_body_buffer_size 2m; root {work};
        location = /upload {{ proxy_pass http://127.0.0.1:{ports[0]}/small; proxy_set_body ""; }}
        location = /typical {{ {fields} set $half "{"y" * 2048}"; return 200 "$half$half"; }}
    }}
}}
""")
    process = start(["nginx", "-p", work, "-c", f"{work}/origin.conf"], 1)
    wait_for(ports[0], process, "the origin")
    return process


def nginx(work, port, ports):
    servers = " ".join(f"server 127.0.0.1:{p} max_fails=0;" for p in ports)
    write(f"{work}/nginx.conf", f"""
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 100000000; server_tokens off;
    {TEMP.format(work + "/n")}
    client_max_body_size 2m;
    upstream pool {{ {servers} keepalive 512; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://pool; proxy_http_version 1.1; proxy_request_buffering off;
            proxy_set_header Connection ""; proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Request-Id $request_id;
        }}
    }}
}}
""")
    return ["nginx", "-p", work, "-c", f"{work}/nginx.conf"]


def haproxy(work, port, ports):
    servers = "\n".join(f"    server s{i} 127.0.0.1:{p}" for i, p in enumerate(ports))
    write(f"{work}/haproxy.cfg", f"""
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    option forwardfor
    timeout connect 2s
    timeout client 75s
    timeout server 60s
frontend web
    bind 127.0.0.1:{port}
    unique-id-format %[uuid]
    unique-id-header X-Request-Id
    default_backend pool
backend pool
    balance roundrobin
    http-reuse always
{servers}
""")
    return ["haproxy", "-db", "-q", "-f", f"{work}/haproxy.cfg"]


def evenkeel(work, port, ports, log=""):
    servers = ", ".join(f'"127.0.0.1:{p}"' for p in ports)
    write(f"{work}/evenkeel.toml", f"""
[process]
workers = 1
{log}
[admin]
address = "off"
[[listener]]
address = "127.0.0.1:{port}"
[upstream.pool]
servers = [{servers}]
max-requests = 100000
[[route]]
prefix = "/"
upstream = "pool"
""")
    binary = os.environ.get("EVENKEEL_BIN", f"{ROOT}/target/release/evenkeel")
    return [binary, "run", "-c", f"{work}/evenkeel.toml"]


def evenkeel_with_log(work, port, ports):
    return evenkeel(work, port, ports, f'[access-log]\npath = "{work}/access.log"\nformat = "json"')


WITH_LOG = "evenkeel, access log"
PEERS = {"nginx": nginx, "haproxy": haproxy, "evenkeel": evenkeel, WITH_LOG: evenkeel_with_log}


def load(port, scenario, seconds, connections, work):
    """Runs wrk; gives the number of good answers."""
    path, headers, _ = SCENARIOS[scenario]
    connections = min(connections, FEWER_CONNECTIONS.get(scenario, connections))
    options = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    if scenario == "upload":
        write(f"{work}/upload.lua", UPLOAD)
        options += ["-s", f"{work}/upload.lua"]
    out = subprocess.run(
        ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *options,
         f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True).stdout
    errors = re.search(r"Non-2xx.*: (\d+)|Socket errors: .*", out)
    if errors:
        sys.exit(f"the load saw errors: {errors.group(0)}")
    return int(re.search(r"(\d+) requests in", out).group(1))


def sample(peer, scenario, args, work, ports):
    """Microseconds of CPU per request of one freshly started proxy."""
    (port,) = free_ports(1)
    process = start(PEERS[peer](work, port, ports), 0)
    try:
        wait_for(port, process, peer)
        load(port, scenario, 1, args.connections, work)
        before = cpu_seconds(process.pid)
        requests = load(port, scenario, args.seconds, args.connections, work)
        return (cpu_seconds(process.pid) - before) / requests * 1e6
    finally:
        stop(process)


def rounds(scenario, args, work, ports):
    names = [peer for peer in PEERS if args.access_log or peer != WITH_LOG]
    samples = {peer: [] for peer in names}
    for number in range(args.rounds):
        turn = number % len(names)
        for peer in names[turn:] + names[:turn]:
            samples[peer].append(sample(peer, scenario, args, work, ports))
    return samples


def report(scenario, samples):
    medians = {peer: statistics.median(values) for peer, values in samples.items()}
    best = min(medians["nginx"], medians["haproxy"])
    print(f"\n{scenario}: {SCENARIOS[scenario][2]}\n")
    print("| proxy | CPU µs per request, median | min..max | to the better of nginx and haproxy |")
    print("|---|---:|---|---:|")
    for peer, values in samples.items():
        print(f"| {peer} | {medians[peer]:.1f} | {min(values):.1f}..{max(values):.1f} | {medians[peer] / best:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of load per sample")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--scenario", default=",".join(SCENARIOS))
    parser.add_argument("--access-log", action="store_true", help="also ours with its access log on")
    parser.add_argument("--json", help="write all samples to this file")
    args = parser.parse_args()
    missing = [tool for tool in ("nginx", "haproxy", "wrk", "taskset") if not shutil.which(tool)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")
    results = {}
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        ports = free_ports(SERVERS)
        server = origin(work, ports)
        try:
            for scenario in args.scenario.split(","):
                results[scenario] = rounds(scenario, args, work, ports)
                report(scenario, results[scenario])
        finally:
            stop(server)
    if args.json:
        write(args.json, json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
