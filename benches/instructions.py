#!/usr/bin/env python3
"""User-space instructions per proxied keep-alive request, counted by callgrind.

    cargo build --release
    sudo apt-get install nginx-light valgrind
    python3 benches/instructions.py [--scenario small,typical] [--top 40]

Seconds are noisy, instructions are not: two runs of different length are counted and their
difference divided, so that start and end cancel out. One worker, the load and the configuration of
`compare.py`, on 16 connections that each have one request under way. EVENKEEL_BIN names another
binary. `--top` also says which functions they are spent in (their own, not what they call).
"""
import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile

import compare

CONNECTIONS = 16
SHORT, LONG = 100, 400


def request(scenario, port):
    path, headers, _ = compare.SCENARIOS[scenario]
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_answer(client):
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(client)
    head, body = data.split(b"\r\n\r\n", 1)
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"the proxy answered: {head.splitlines()[0].decode()}")
    left = int(re.search(rb"(?i)content-length: (\d+)", head).group(1)) - len(body)
    while left > 0:
        left -= len(received(client))


def received(client):
    data = client.recv(65536)
    if not data:
        sys.exit("the proxy closed a connection")
    return data


def load(port, scenario, rounds):
    """One request on each connection, then all answers, so many times."""
    message = request(scenario, port)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    for _ in range(rounds):
        for client in clients:
            client.sendall(message)
        for client in clients:
            read_answer(client)
    for client in clients:
        client.close()


def counted(scenario, rounds, work, ports):
    """Instructions of a whole run by function."""
    (port,) = compare.free_ports(1)
    out = f"{work}/callgrind.{rounds}"
    tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    process = compare.start(tool + compare.evenkeel(work, port, ports), 0)
    try:
        compare.wait_for(port, process, "evenkeel", tries=3000)
        load(port, scenario, rounds)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    text = subprocess.run(["callgrind_annotate", "--threshold=100", "--auto=no", out],
                          capture_output=True, text=True, check=True).stdout
    total, functions = 0, {}
    for line in text.splitlines():
        found = re.match(r"\s*([\d,]+) \([^)]*\)\s+(.*)", line)
        if found is None:
            continue
        count, name = int(found.group(1).replace(",", "")), found.group(2)
        if name == "PROGRAM TOTALS":
            total = count
        else:
            name = re.sub(r"^\S*?:(?!:)|'2$| \[.*\]$", "", name)
            functions[name] = functions.get(name, 0) + count
    return total, functions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default=",".join(compare.SCENARIOS))
    parser.add_argument("--top", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        ports = compare.free_ports(compare.SERVERS)
        origin = compare.origin(work, ports)
        try:
            for scenario in args.scenario.split(","):
                measure(scenario, args.top, work, ports)
        finally:
            compare.stop(origin)


def measure(scenario, top, work, ports):
    short, few = counted(scenario, SHORT, work, ports)
    long, many = counted(scenario, LONG, work, ports)
    requests = (LONG - SHORT) * CONNECTIONS
    print(f"{scenario}: {(long - short) / requests:,.0f} instructions per request", flush=True)
    spent = {name: (count - few.get(name, 0)) / requests for name, count in many.items()}
    for name, count in sorted(spent.items(), key=lambda item: -item[1])[:top]:
        print(f"  {count:8,.0f}  {name[:150]}")


if __name__ == "__main__":
    main()
