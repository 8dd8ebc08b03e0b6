"""Honest clients: each asks one thing after the other and knows what the right answer is."""

import asyncio
import itertools
import os
import random
import ssl
import time

from http2 import H2Connection
from origin import pattern, proof
from tally import OK, Failure

# No client waits longer for an answer: after this long the request counts as failed.
PATIENCE = 15
NUMBERS = itertools.count()


class Connection:
    """One HTTP/1.1 connection; `used` is how many answers came on it."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.used = 0
        self.open = True

    @classmethod
    async def to(cls, port, tls):
        try:
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))
        except ssl.SSLError as error:
            raise Failure("handshake failed", str(error)) from error
        except OSError as error:
            raise Failure("not connected", str(error)) from error

    async def send(self, method, target, body=b"", fields="", chunked=False):
        framing = "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {len(body)}\r\n"
        if method == "GET":
            framing = ""
        head = f"{method} {target} HTTP/1.1\r\nHost: soak.test\r\n{framing}{fields}\r\n".encode()
        try:
            self.writer.write(head)
            for piece in pieces(body) if body else ():
                self.writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
                await self.writer.drain()
            if chunked:
                self.writer.write(b"0\r\n\r\n")
            await self.writer.drain()
        except OSError:
            # An answer may be there all the same; reading tells.
            pass

    async def head(self):
        """Status and fields of the answer."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError) as error:
            begun = "a head cut" if getattr(error, "partial", b"") else "no answer"
            raise Failure(f"{begun}, {'kept' if self.used else 'new'} connection") from error
        lines = head.decode("latin-1").split("\r\n")
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        self.open = "close" not in fields.get("connection", "").lower()
        return int(lines[0].split(" ")[1]), fields

    async def body(self, fields):
        try:
            if "chunked" in fields.get("transfer-encoding", ""):
                body = b""
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readuntil(b"\r\n")
            else:
                body = await self.reader.readexactly(int(fields.get("content-length", 0)))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Failure("cut in the body") from error
        self.used += 1
        return body

    async def ask(self, method, target, body=b"", chunked=False):
        await self.send(method, target, body, chunked=chunked)
        status, fields = await self.head()
        answer = await self.body(fields)
        if status != 200:
            reason = fields.get("x-evenkeel-reason", "no reason")
            raise Failure(f"{status} {reason}", answer[:80].decode("latin-1"))
        return answer

    def close(self):
        self.open = False
        self.writer.transport.abort()


def pieces(body):
    for start in range(0, len(body), 16384):
        yield body[start : start + 16384]


class Client:
    """Asks until `stop` is set; what came of it goes to `tally`."""

    def __init__(self, tally, stop, ports, trust):
        self.tally, self.stop, self.ports, self.trust = tally, stop, ports, trust
        self.posts = set()

    async def run(self, kind, pause):
        connection = None
        try:
            while not self.stop.is_set():
                connection = await self.once(kind, connection)
                await asyncio.sleep(random.uniform(0, 2 * pause))
        finally:
            if connection:
                connection.close()

    async def once(self, kind, connection):
        """One request; gives back the connection if it may be used again."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                if connection is None or not connection.open:
                    connection = await self.connect(kind)
                await getattr(self, kind.replace("-", "_"))(connection)
            self.tally.add(kind, OK, time.monotonic() - began)
        except Failure as failure:
            self.tally.add(kind, failure.outcome, detail=failure.detail)
            connection = drop(connection)
        except TimeoutError:
            self.tally.add(kind, f"nothing within {PATIENCE} s")
            connection = drop(connection)
        if connection and (not connection.open or kind in ONE_PER_CONNECTION or random.random() < 0.02):
            connection = drop(connection)
        return connection

    async def connect(self, kind):
        if kind == "h2":
            return await H2Connection.to(self.ports["web"])
        secure = kind in SECURE
        return await Connection.to(self.ports["tls" if secure else "web"], self.trust if secure else None)

    async def expect_proof(self, connection, method, target, body=b"", chunked=False):
        answer = await connection.ask(method, target, body, chunked)
        if answer != proof(method, target, body):
            raise Failure("wrong answer", f"{target}: {answer[:80]!r}")

    async def get(self, connection):
        await self.expect_proof(connection, "GET", f"/echo/{next(NUMBERS)}")

    get_new = get_tls = get

    async def h2(self, connection):
        await connection.ask([f"/echo/{next(NUMBERS)}" for _ in range(random.randint(1, 10))])

    async def slow(self, connection):
        await self.expect_proof(connection, "GET", f"/slow/{random.randint(10, 300)}/{next(NUMBERS)}")

    async def put(self, connection):
        body = os.urandom(random.randint(1, 40_000))
        await self.expect_proof(connection, "PUT", f"/echo/{next(NUMBERS)}", body, chunked=True)

    async def post(self, connection):
        target = f"/echo/{next(NUMBERS)}"
        await self.expect_proof(connection, "POST", target, os.urandom(random.randint(1, 20_000)))
        self.posts.add(target)

    async def upload(self, connection):
        await self.expect_proof(connection, "PUT", f"/echo/{next(NUMBERS)}", os.urandom(1_000_000))

    async def download(self, connection):
        length = random.randint(200_000, 2_000_000)
        if await connection.ask("GET", f"/bytes/{length}") != pattern(length):
            raise Failure("wrong answer", f"{length} bytes")

    download_tls = download

    async def events(self, connection):
        count = random.randint(5, 50)
        answer = await connection.ask("GET", f"/events/{count}")
        if answer != b"".join(b"data: %d\n\n" % number for number in range(count)):
            raise Failure("wrong answer", f"{count} events")

    async def websocket(self, connection):
        await connection.send(
            "GET", f"/socket/{next(NUMBERS)}",
            fields="Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        )
        status, fields = await connection.head()
        connection.open = False
        if status != 101:
            raise Failure(f"{status} {fields.get('x-evenkeel-reason', 'no reason')}")
        for _ in range(random.randint(1, 20)):
            message = os.urandom(random.randint(1, 3000))
            try:
                connection.writer.write(message)
                await connection.writer.drain()
                answer = await connection.reader.readexactly(len(message))
            except (asyncio.IncompleteReadError, OSError) as error:
                raise Failure("tunnel cut") from error
            if answer != message:
                raise Failure("wrong answer", "in a tunnel")
            await asyncio.sleep(0.01)


def drop(connection):
    if connection:
        connection.close()


ONE_PER_CONNECTION = ("get-new", "websocket")
SECURE = ("get-tls", "download-tls")
# Kind of request -> (clients, mean seconds between two requests of one).
MIX = {
    "get": (12, 0.02),
    "get-new": (4, 0.03),
    "get-tls": (6, 0.03),
    "h2": (4, 0.05),
    "slow": (8, 0.05),
    "put": (3, 0.05),
    "post": (6, 0.05),
    "upload": (1, 0.3),
    "download": (2, 0.2),
    "download-tls": (1, 0.3),
    "events": (3, 0.1),
    "websocket": (3, 0.1),
}
