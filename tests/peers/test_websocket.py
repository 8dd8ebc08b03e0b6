"""WebSocket of a real library on both sides, plain and over TLS."""

import asyncio
import ssl

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

MIB = 1 << 20


async def echo(socket):
    """Says everything back; `close 4001 text` closes, `drop` leaves without a word."""
    async for message in socket:
        if isinstance(message, str) and message.startswith("close "):
            _, code, text = message.split(" ", 2)
            return await socket.close(int(code), text)
        if message == "drop":
            return socket.transport.abort()
        await socket.send(message)


def first(_socket, offered):
    return offered[0] if offered else None


@pytest.fixture(params=["plain", "tls"])
def through(request, proxy, certificates):
    """Runs `work(url, options)` with a server behind a proxy."""

    def run(work):
        asyncio.run(asyncio.wait_for(behind_proxy(work), 60))

    async def behind_proxy(work):
        options = {"max_size": 64 * MIB, "select_subprotocol": first}
        async with serve(echo, "127.0.0.1", 0, **options) as server:
            port = server.sockets[0].getsockname()[1]
            front = proxy(config(port, certificates if request.param == "tls" else None))
            client = {"max_size": 64 * MIB, "proxy": None}
            scheme = "ws"
            if request.param == "tls":
                scheme = "wss"
                client["ssl"] = ssl.create_default_context(cafile=certificates / "ca.pem")
            await work(f"{scheme}://localhost:{front.ports['web']}/chat", client)

    return run


def config(port, certificates):
    tls = ""
    if certificates:
        tls = f"""[listener.tls]
certificates = [{{ cert = "{certificates}/site.pem", key = "{certificates}/site.key" }}]"""
    return f"""
[[listener]]
name = "web"
address = "127.0.0.1:0"
{tls}
[upstream.chat]
servers = ["127.0.0.1:{port}"]
[[route]]
prefix = "/chat"
upstream = "chat"
"""


def test_messages_of_every_kind_and_size(through):
    async def work(url, options):
        async with connect(url, **options) as socket:
            for message in ["", "text", "ü" * 70_000, b"", b"\x00" * 125, b"y" * 65_536, b"z" * 9 * MIB]:
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(["in ", "several ", "fragments"])
            assert await socket.recv() == "in several fragments"
            await (await socket.ping(b"are you there"))

    through(work)


def test_subprotocols_and_compression_are_agreed_end_to_end(through):
    async def work(url, options):
        async with connect(url, subprotocols=["superchat"], **options) as socket:
            assert socket.subprotocol == "superchat"
            assert socket.protocol.extensions, "permessage-deflate"
            await socket.send("again " * 10_000)
            assert await socket.recv() == "again " * 10_000

    through(work)


def test_close_codes_pass(through):
    async def work(url, options):
        async with connect(url, **options) as socket:
            await socket.send("close 4001 that is all")
            with pytest.raises(websockets.ConnectionClosedError):
                await socket.recv()
            assert (socket.close_code, socket.close_reason) == (4001, "that is all")

    through(work)


def test_a_connection_that_is_dropped_is_not_closed_in_good_order(through):
    async def work(url, options):
        async with connect(url, **options) as socket:
            await socket.send("drop")
            with pytest.raises(websockets.ConnectionClosedError):
                await socket.recv()
            assert socket.close_code == 1006

    through(work)


def test_both_sides_speak_at_once(through):
    async def work(url, options):
        async with connect(url, **options) as socket:

            async def send():
                for number in range(500):
                    await socket.send(b"%d" % number + b"." * 20_000)

            sending = asyncio.create_task(send())
            for number in range(500):
                message = await socket.recv()
                assert message.startswith(b"%d." % number)
            await sending

    through(work)


def test_many_sockets_at_once(through):
    async def one(url, options, number):
        async with connect(url, **options) as socket:
            for turn in range(20):
                await socket.send(f"{number}/{turn}")
                assert await socket.recv() == f"{number}/{turn}"

    async def work(url, options):
        await asyncio.gather(*(one(url, options, number) for number in range(60)))

    through(work)
