"""Clients that mean harm, a few of each kind at a time. Nothing that comes back to them counts: what
counts is that the honest ones notice nothing, and that nothing is left of them at the end."""

import asyncio
import os
import random
import struct

from http2 import GOAWAY, PING, PREFACE, RST_STREAM, SETTINGS, frame, request

# A round of an attack lasts this long at most, in seconds.
ROUND = 5


async def slow_head(reader, writer):
    """Slowloris: a field every so often, never the end."""
    writer.write(b"GET / HTTP/1.1\r\nHost: soak.test\r\n")
    for number in range(100):
        writer.write(b"X-%d: y\r\n" % number)
        await writer.drain()
        await asyncio.sleep(0.5)


async def slow_body(reader, writer):
    """R-U-Dead-Yet: a body that comes byte by byte."""
    writer.write(b"PUT /echo/0 HTTP/1.1\r\nHost: soak.test\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(100):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.3)


async def slow_reader(reader, writer):
    """Asks for much and reads none of it."""
    writer.write(b"GET /bytes/4000000 HTTP/1.1\r\nHost: soak.test\r\n\r\n")
    await asyncio.sleep(ROUND)


async def leaver(reader, writer):
    """Asks and is gone, over and over on its connection's last breath."""
    writer.write(b"GET /slow/500/0 HTTP/1.1\r\nHost: soak.test\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(random.uniform(0, 0.3))


async def silent(reader, writer):
    """Connects and says nothing."""
    await asyncio.sleep(ROUND)


async def garbage(reader, writer):
    writer.write(os.urandom(random.randint(1, 4000)))
    await writer.drain()
    await reader.read(1000)


async def smuggler(reader, writer):
    """Two lengths, with a request inside that only one reading has."""
    writer.write(
        b"POST /echo/smuggled HTTP/1.1\r\nHost: soak.test\r\nContent-Length: 44\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /echo/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    await writer.drain()
    await reader.read(1000)


async def wide_head(reader, writer):
    """A head without end."""
    writer.write(b"GET / HTTP/1.1\r\nHost: soak.test\r\n")
    for number in range(2000):
        writer.write(b"X-%d: %s\r\n" % (number, b"y" * 1000))
        await writer.drain()


async def endless_chunks(reader, writer):
    """Chunk extensions and one-byte chunks."""
    writer.write(b"PUT /echo/0 HTTP/1.1\r\nHost: soak.test\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(20_000):
        writer.write(b"1;a=b\r\nx\r\n")
        await writer.drain()


async def rapid_reset(reader, writer):
    """CVE-2023-44487."""
    writer.write(PREFACE + frame(SETTINGS, 0, 0))
    for stream in range(1, 4001, 2):
        writer.write(request(stream, "/slow/100/0"))
        writer.write(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
        if stream % 100 == 1:
            await writer.drain()


async def ping_flood(reader, writer):
    """CVE-2019-9512."""
    writer.write(PREFACE + frame(SETTINGS, 0, 0))
    for _ in range(200):
        writer.write(frame(PING, 0, 0, b"12345678") * 50)
        await writer.drain()


async def zero_window(reader, writer):
    """Takes no byte of what it asked for."""
    writer.write(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
    for stream in range(1, 41, 2):
        writer.write(request(stream, "/bytes/100000"))
    await asyncio.sleep(ROUND)
    writer.write(frame(GOAWAY, 0, 0, bytes(8)))


async def half_handshake(reader, writer):
    """The first bytes of a TLS ClientHello, never the rest."""
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(40))
    await asyncio.sleep(ROUND)


ATTACKS = {
    "web": (
        slow_head, slow_body, slow_reader, leaver, silent, garbage, smuggler, wide_head,
        endless_chunks, rapid_reset, ping_flood, zero_window,
    ),
    "tls": (half_handshake, garbage, silent),
}


async def attack(stop, ports, tally):
    """One attacker: a round of one attack after another."""
    while not stop.is_set():
        listener = random.choice(("web", "web", "web", "tls"))
        way = random.choice(ATTACKS[listener])
        writer = None
        try:
            async with asyncio.timeout(ROUND):
                reader, writer = await asyncio.open_connection("127.0.0.1", ports[listener])
                await way(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            if writer:
                writer.transport.abort()
        tally[way.__name__] += 1
        await asyncio.sleep(random.uniform(0, 0.2))
