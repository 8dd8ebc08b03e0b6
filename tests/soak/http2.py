"""Just enough of HTTP/2 (RFC 9113) to ask over one connection with streams side by side, and to
misbehave: fields are literals (RFC 7541 section 6.2.2), of an answer's head only `:status 200` is known."""

import asyncio
import struct

from origin import proof
from tally import Failure

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
STATUS_200 = 0x88


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request(stream, target, method=b"GET", end=True):
    fields = literal(b":method", method) + literal(b":scheme", b"http")
    fields += literal(b":authority", b"soak.test") + literal(b":path", target.encode())
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, fields)


class H2Connection:
    """A connection with streams that are asked together, in rounds."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.stream = 1
        self.open = True
        writer.write(PREFACE + frame(SETTINGS, 0, 0))

    @classmethod
    async def to(cls, port):
        try:
            return cls(*await asyncio.open_connection("127.0.0.1", port))
        except OSError as error:
            raise Failure("not connected", str(error)) from error

    async def ask(self, targets):
        """Asks for all of them at once; raises what went wrong first."""
        asked = {}
        for target in targets:
            asked[self.stream] = target
            self.writer.write(request(self.stream, target))
            self.stream += 2
        bodies = dict.fromkeys(asked, b"")
        statuses = {}
        last = None
        while any(body is not None for body in bodies.values()):
            kind, flags, stream, payload = await self.frame()
            if kind == SETTINGS and not flags & ACK:
                self.writer.write(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                self.writer.write(frame(PING, ACK, 0, payload))
            elif kind == GOAWAY:
                last = struct.unpack(">I", payload[:4])[0] & 0x7FFFFFFF
                self.open = False
                if max(asked) > last:
                    raise Failure("GOAWAY, not processed", f"code {payload[4:8].hex()}")
            elif kind == RST_STREAM and stream in asked:
                raise Failure(f"stream reset, code {payload.hex()}")
            elif kind == HEADERS and stream in asked:
                statuses.setdefault(stream, payload[0] if payload else 0)
            elif kind == DATA and stream in asked:
                bodies[stream] += payload
                if payload:
                    grant = struct.pack(">I", len(payload))
                    self.writer.write(frame(WINDOW_UPDATE, 0, 0, grant))
            if kind in (HEADERS, DATA) and flags & END_STREAM and stream in asked:
                self.end(asked[stream], statuses.get(stream), bodies[stream])
                bodies[stream] = None

    @staticmethod
    def end(target, status, body):
        if status != STATUS_200:
            raise Failure("status not 200", body[:60].decode("latin-1"))
        if body != proof("GET", target, b""):
            raise Failure("wrong answer", f"{target}: {body[:60]!r}")

    async def frame(self):
        try:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Failure("connection ended") from error
        return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload

    def close(self):
        self.open = False
        self.writer.transport.abort()
