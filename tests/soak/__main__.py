#!/usr/bin/env python3
"""Soak: everything at once for a chosen time, then a table.

    cargo build --release
    python3 tests/soak --seconds 3600 --binary target/release/evenkeel

Honest clients of every kind ask through one proxy, while servers are killed, stopped and reset one
at a time, the file is rewritten (sometimes broken), the binary is upgraded (sometimes to one that is no
good), and attackers do their worst. Needs Python 3.11, openssl and curl, nothing else. It fails
(exit code 1) when an honest client saw what it must not see, a POST was carried out twice, or memory,
descriptors or tasks are left over at the end.
"""

import argparse
import asyncio
import collections
import pathlib
import random
import socket
import ssl
import sys
import tempfile

from attacks import attack
from clients import MIX, Client
from faults import Server, rewrite, trouble, upgrade
from proxy import ROOT, Proxy
from tally import Tally

SERVERS = 3
# Memory that the allocator may keep after the storm, in MB.
KEPT = 40
# Threads that read files for reloads, and end when there was nothing to do for a while.
BLOCKING = 4


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--binary", default=ROOT / "target" / "debug" / "evenkeel")
    parser.add_argument("--kinds", default=",".join(MIX), help="of requests: %(default)s")
    parser.add_argument("--faults", default="killed,stopped,moody", help="of servers, or none; also: blackholed (root and iptables)")
    parser.add_argument("--well", type=float, default=2, help="seconds between two faults")
    parser.add_argument("--rewrite", type=float, default=0.5, help="seconds between two files; 0: never")
    parser.add_argument("--upgrade", type=float, default=5, help="seconds between two upgrades; 0: never")
    parser.add_argument("--attackers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    return parser.parse_args()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def forgiven(kind, outcome):
    """What no proxy can save: a POST that was under way to a server that died must not be sent
    again, a long upload cannot, and an answer that had begun cannot be begun anew."""
    if kind in ("post", "upload"):
        return outcome in ("502 upstream_reset", "504 response_timeout", "502 bad_response")
    if kind in ("download", "download-tls", "events"):
        return outcome == "cut in the body"
    if kind == "websocket":
        return outcome == "tunnel cut"
    return False


def doubled(servers):
    """Targets of POSTs that were carried out more than once."""
    seen = collections.Counter()
    for server in servers:
        seen.update(server.journal.read_bytes().split() if server.journal.exists() else ())
    return seen, [target for target, count in seen.items() if count > 1]


async def storm(options, proxy, servers, tally, happened):
    """All of it, until the time is over."""
    trust = ssl.create_default_context(cafile=proxy.directory / "site.pem")
    stop, done = asyncio.Event(), asyncio.Event()
    client = Client(tally, done, proxy.ports, trust)
    honest = [
        asyncio.create_task(client.run(kind, pause))
        for kind in options.kinds.split(",")
        for count, pause in [MIX[kind]]
        for _ in range(count)
    ]
    hostile = [asyncio.create_task(attack(stop, proxy.ports, happened)) for _ in range(options.attackers)]
    if options.faults != "none":
        hostile.append(asyncio.create_task(trouble(stop, servers, happened, options.faults.split(","), options.well)))
    if options.rewrite:
        hostile.append(asyncio.create_task(rewrite(stop, proxy, happened, options.rewrite)))
    if options.upgrade:
        hostile.append(asyncio.create_task(upgrade(stop, proxy, happened, options.upgrade)))
    await asyncio.sleep(options.seconds)
    # The faults end first, each with its server well again; then the clients.
    stop.set()
    results = await asyncio.gather(*hostile, return_exceptions=True)
    done.set()
    results += await asyncio.gather(*honest, return_exceptions=True)
    for error in results:
        if isinstance(error, BaseException):
            raise error
    return client


async def settle(proxy):
    """What the proxy holds when nobody asks any more."""
    for _ in range(150):
        look = await asyncio.to_thread(proxy.look)
        if look["client connections"] == look["requests in flight"] == look["server connections"] == 0:
            break
        await asyncio.sleep(0.1)
    return look


async def soak(options, directory):
    ports = free_ports(SERVERS + 2)
    servers = [Server(port, directory) for port in ports[:SERVERS]]
    proxy = Proxy(options.binary, directory, {"web": ports[-2], "tls": ports[-1]}, servers)
    tally, happened = Tally(), collections.Counter()
    mistakes = []
    try:
        await asyncio.gather(*(server.start() for server in servers))
        proxy.start()
        before = await settle(proxy)
        client = await storm(options, proxy, servers, tally, happened)
        after = await settle(proxy)
        codes = await asyncio.to_thread(proxy.stop)
    finally:
        for server in servers:
            await server.end()
        proxy.kill()
    carried_out, twice = doubled(servers)

    print(tally.table())
    print("\nmeanwhile: " + ", ".join(f"{what} x{count}" for what, count in sorted(happened.items())))
    print(f"\n{'of the proxy':<26}{'start':>9}{'end':>9}")
    for name, value in after.items():
        print(f"{name:<26}{before[name]:>9}{value:>9}")

    mistakes += [f"{kind}: {outcome} x{count}" for (kind, outcome), count in tally.failed(forgiven).items()]
    mistakes += [f"POST {target.decode()} carried out twice" for target in twice]
    mistakes += [f"POST {target} answered, never carried out" for target in client.posts if target.encode() not in carried_out]
    mistakes += [f"{name}: {after[name]} left" for name in ("client connections", "requests in flight", "server connections", "queue") if after[name]]
    if after["resident MB"] > before["resident MB"] + KEPT:
        mistakes.append(f"resident MB: {before['resident MB']} -> {after['resident MB']}")
    if after["descriptors"] > before["descriptors"] + after["idle server connections"] + 8:
        mistakes.append(f"descriptors: {before['descriptors']} -> {after['descriptors']}")
    for name, more in (("threads", BLOCKING), ("tasks of workers", 0), ("tasks of control", 8)):
        if after[name] > before[name] + more:
            mistakes.append(f"{name}: {before[name]} -> {after[name]}")
    if any(codes):
        mistakes.append(f"exit codes {codes}")
    if "panicked" in proxy.log.read_text():
        mistakes.append("a panic, see the log")
    return mistakes, proxy


def main():
    options = arguments()
    random.seed(options.seed)
    print(f"soak of {options.seconds:g} s, seed {options.seed}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="evenkeel-soak-") as directory:
        mistakes, proxy = asyncio.run(soak(options, pathlib.Path(directory)))
        if mistakes:
            print("\n" + proxy.log.read_text()[-6000:])
    print("\n" + ("\n".join(["FAILED", *mistakes]) if mistakes else "nothing lost, doubled, mixed up or left over"))
    sys.exit(1 if mistakes else 0)


if __name__ == "__main__":
    main()
