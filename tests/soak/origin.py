"""A server of the soak: answers what it is asked so that a client can tell a right answer from a
wrong one, and notes every POST that it carried out, so that a doubled one shows.

    origin.py PORT JOURNAL      commands on stdin, one per line: "moody" | "well"
"""

import asyncio
import base64
import hashlib
import random
import socket
import struct
import sys

WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PATTERN = bytes(range(256)) * 256
# A queue short enough to fill while the process is stopped: then SYNs go unanswered, as of a black hole.
BACKLOG = 32


def pattern(length):
    whole, rest = divmod(length, len(PATTERN))
    return PATTERN * whole + PATTERN[:rest]


class Origin:
    def __init__(self, journal):
        self.journal = open(journal, "ab", buffering=0)
        self.moody = False

    async def serve(self, reader, writer):
        try:
            while await self.exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        except asyncio.CancelledError:
            # The end of the soak.
            pass
        finally:
            writer.close()

    async def exchange(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            fields[name.lower()] = value
        if self.moody and random.random() < 0.3:
            reset(writer)
            return False
        body = await read_body(reader, fields)
        kind, *rest = target.strip("/").split("/")
        if kind == "healthz":
            answer(writer, b"well")
        elif kind == "bytes":
            answer(writer, pattern(int(rest[0])))
        elif kind == "events":
            return await events(writer, int(rest[0]))
        elif kind == "socket":
            return await tunnel(reader, writer, fields)
        else:
            if kind == "slow":
                await asyncio.sleep(int(rest[0]) / 1000)
            if method == "POST":
                self.journal.write(target.encode() + b"\n")
            answer(writer, proof(method, target, body))
        await writer.drain()
        return True


def proof(method, target, body):
    """What only the right request can be answered with."""
    return f"{method} {target} {len(body)} {hashlib.sha256(body).hexdigest()[:16]}".encode()


def answer(writer, body):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def read_body(reader, fields):
    if "chunked" in fields.get("transfer-encoding", ""):
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return body
    return await reader.readexactly(int(fields.get("content-length", 0)))


async def events(writer, count):
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for number in range(count):
        event = b"data: %d\n\n" % number
        writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        await asyncio.sleep(0.02)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def tunnel(reader, writer, fields):
    key = fields["sec-websocket-key"].encode()
    accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    return False


def reset(writer):
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def main(port, journal):
    origin = Origin(journal)
    server = await asyncio.start_server(
        origin.serve, "127.0.0.1", port, backlog=BACKLOG, reuse_address=True
    )
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    async with server:
        while line := await commands.readline():
            origin.moody = line.strip() == b"moody"


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
