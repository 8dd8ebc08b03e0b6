#!/usr/bin/env python3
"""User-space instructions per proxied keep-alive request, counted by callgrind.

    cargo build --release
    sudo apt-get install valgrind
    python3 benches/instructions.py            # compares with instructions.json, fails above its limit
    python3 benches/instructions.py --record   # writes today's figures into it
    python3 benches/instructions.py --top 40   # also says which functions they are spent in

Seconds are noisy, instructions are not: two runs of different length are counted and their
difference divided, so that start and end cancel out; what is left differs by 0.2 % from run to
run. One worker, the configuration and the requests of `compare.py`, on 16 connections that each
have one request under way. EVENKEEL_BIN names another binary. Functions are listed with their own
instructions, without what they call.
"""
import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import compare

CONNECTIONS = 16
SHORT, LONG = 100, 400
RECORD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "instructions.json")
BODY_BYTES = {"small": 128, "typical": 4096}


def request(scenario, port):
    path, headers, _ = compare.SCENARIOS[scenario]
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(scenario):
    headers = {"Server": "origin", "Date": "Sun, 06 Nov 1994 08:49:37 GMT",
               "Content-Type": "text/plain", "Content-Length": BODY_BYTES[scenario]}
    if scenario == "typical":
        headers |= compare.TYPICAL_RESPONSE
    lines = ["HTTP/1.1 200 OK"] + [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + b"x" * BODY_BYTES[scenario]


def origin(scenario):
    """Listens on a few ports and answers whatever comes; the ports."""
    message, ports = answer(scenario), []

    def serve(connection):
        with connection:
            waiting = b""
            while data := connection.recv(65536):
                waiting += data
                while b"\r\n\r\n" in waiting:
                    waiting = waiting.split(b"\r\n\r\n", 1)[1]
                    connection.sendall(message)

    def accept(listener):
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    for _ in range(compare.SERVERS):
        listener = socket.create_server(("127.0.0.1", 0))
        ports.append(listener.getsockname()[1])
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
    return ports


def read_answer(client, length):
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(client)
    head, body = data.split(b"\r\n\r\n", 1)
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"the proxy answered: {head.splitlines()[0].decode()}")
    left = length - len(body)
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
            read_answer(client, BODY_BYTES[scenario])
    for client in clients:
        client.close()


def counted(scenario, rounds, work, ports):
    """Instructions of a whole run, in all and by function."""
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


def measure(scenario, top, work):
    """Instructions per request."""
    ports = origin(scenario)
    short, few = counted(scenario, SHORT, work, ports)
    long, many = counted(scenario, LONG, work, ports)
    requests = (LONG - SHORT) * CONNECTIONS
    spent = {name: (count - few.get(name, 0)) / requests for name, count in many.items()}
    for name, count in sorted(spent.items(), key=lambda item: -item[1])[:top]:
        print(f"  {count:8,.0f}  {name[:150]}")
    return round((long - short) / requests)


def rustc():
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()


def judge(figures, recorded):
    """Prints the comparison; true where a figure is over the limit."""
    limit, over = recorded["limit_percent"], False
    for scenario, figure in figures.items():
        before = recorded["instructions_per_request"][scenario]
        change = 100 * (figure / before - 1)
        over |= change > limit
        print(f"{scenario}: {figure:,} instructions per request, recorded {before:,}: {change:+.1f} %")
    if over:
        print(f"more than {limit} % over what benches/instructions.json records (with {recorded['rustc']}; "
              f"here: {rustc()}).\nFind the cause with --top 40; where the cost is meant, --record it and say why.")
    return over


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default=",".join(BODY_BYTES))
    parser.add_argument("--top", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        figures = {scenario: measure(scenario, args.top, work) for scenario in args.scenario.split(",")}
    with open(RECORD) as file:
        recorded = json.load(file)
    if args.record:
        recorded["instructions_per_request"] |= figures
        recorded["rustc"] = rustc()
        compare.write(RECORD, json.dumps(recorded, indent=2) + "\n")
    sys.exit(judge(figures, recorded))


if __name__ == "__main__":
    main()
