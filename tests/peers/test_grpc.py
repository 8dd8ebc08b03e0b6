"""Calls of a real gRPC stack, through HTTP/2 on both sides."""

import threading
import time
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from conftest import eventually

MIB = 1 << 20
OPTIONS = [
    ("grpc.max_receive_message_length", 64 * MIB),
    ("grpc.max_send_message_length", 64 * MIB),
    # Every channel has connections of its own.
    ("grpc.use_local_subchannel_pool", 1),
]


class Calls(grpc.GenericRpcHandler):
    """The service; messages are bytes."""

    def __init__(self):
        self.cancelled = threading.Event()
        self.entered = threading.Event()
        self.served = 0

    def service(self, details):
        name = details.method.rsplit("/", 1)[-1]
        kinds = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Stall": grpc.unary_unary_rpc_method_handler(self.stall),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Endless": grpc.unary_stream_rpc_method_handler(self.endless),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
        }
        return kinds.get(name)

    def echo(self, request, context):
        self.served += 1
        told = [(k, v) for k, v in context.invocation_metadata() if k.startswith("x-told")]
        context.send_initial_metadata([("x-initial", "one"), *told])
        context.set_trailing_metadata([("x-trailing", "two"), ("x-raw-bin", b"\x00\xff\n")])
        return request

    def fail(self, request, context):
        code, _, text = request.decode().partition(" ")
        context.set_trailing_metadata([("x-trailing", "still")])
        context.abort(getattr(grpc.StatusCode, code), text)

    def stall(self, request, context):
        context.add_callback(self.cancelled.set)
        self.entered.set()
        self.cancelled.wait(30)
        return b""

    def count(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number

    def endless(self, request, context):
        context.add_callback(self.cancelled.set)
        self.entered.set()
        while context.is_active():
            yield b"x" * 1000

    def sum(self, requests, context):
        return b"%d" % sum(int(request) for request in requests)

    def talk(self, requests, context):
        for request in requests:
            yield b"you said " + request


class Server:
    """A server of that service with the health service beside it."""

    def __init__(self, credentials=None, port=0):
        self.calls = Calls()
        self.server = grpc.server(futures.ThreadPoolExecutor(64), options=OPTIONS)
        self.server.add_generic_rpc_handlers((self.calls,))
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.set(health_pb2.HealthCheckResponse.SERVING)
        if credentials:
            self.port = self.server.add_secure_port(f"127.0.0.1:{port}", credentials)
        else:
            self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def set(self, status):
        self.health.set("shop.Calls", status)

    def stop(self, grace=None):
        self.server.stop(grace).wait()


@pytest.fixture
def server():
    started = Server()
    yield started
    started.stop()


@pytest.fixture
def channel(proxy, server):
    """A channel to a proxy in front of one server."""
    front = proxy(config(server))
    with open_channel(front) as channel:
        channel.front = front
        yield channel


def config(*servers, upstream="", listener=""):
    addresses = ", ".join(f'"127.0.0.1:{server.port}"' for server in servers)
    return f"""
[[listener]]
name = "web"
address = "127.0.0.1:0"
{listener}
[upstream.calls]
protocol = "h2"
servers = [{addresses}]
{upstream}
[[route]]
prefix = "/shop.Calls"
upstream = "calls"
"""


def open_channel(front, name="web"):
    return grpc.insecure_channel(f"127.0.0.1:{front.ports[name]}", options=OPTIONS)


def call(channel, kind, method):
    return getattr(channel, kind)(f"/shop.Calls/{method}", None, None)


def test_a_call_and_its_metadata(channel):
    echo = call(channel, "unary_unary", "Echo")
    answer, told = echo.with_call(b"hello", metadata=[("x-told", "me"), ("x-told-bin", b"\x00\xfe")])
    assert answer == b"hello"
    initial, trailing = dict(told.initial_metadata()), dict(told.trailing_metadata())
    assert initial["x-initial"] == "one" and initial["x-told"] == "me"
    assert initial["x-told-bin"] == b"\x00\xfe"
    assert trailing["x-trailing"] == "two" and trailing["x-raw-bin"] == b"\x00\xff\n"
    assert told.code() is grpc.StatusCode.OK


def test_streams_in_each_direction(channel):
    assert list(call(channel, "unary_stream", "Count")(b"3000")) == [b"%d" % n for n in range(3000)]
    assert call(channel, "stream_unary", "Sum")(iter([b"1", b"20", b"300"])) == b"321"
    assert list(call(channel, "unary_stream", "Count")(b"0")) == []


def test_both_directions_at_once(channel):
    """Each side speaks only after it has heard the other."""
    heard = threading.Semaphore(1)

    def words():
        for number in range(200):
            assert heard.acquire(timeout=20)
            yield b"%d" % number

    for number, answer in enumerate(call(channel, "stream_stream", "Talk")(words())):
        assert answer == b"you said %d" % number
        heard.release()
    assert number == 199


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_535, 65_536, MIB, 20 * MIB])
def test_messages_of_any_size(channel, size):
    message = bytes(size // 7 + 1) + b"sevenths"
    assert call(channel, "unary_unary", "Echo")(message) == message


@pytest.mark.parametrize(
    "code", ["INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "ABORTED", "DATA_LOSS", "UNKNOWN"]
)
def test_errors_of_the_server_pass(channel, code):
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, "unary_unary", "Fail")(f"{code} naïve: 100 %".encode())
    assert raised.value.code() is grpc.StatusCode[code]
    assert raised.value.details() == "naïve: 100 %"
    assert dict(raised.value.trailing_metadata())["x-trailing"] == "still"


def test_many_calls_on_one_connection(channel):
    echo = call(channel, "unary_unary", "Echo")
    pending = [echo.future(b"%d" % number) for number in range(1000)]
    assert [future.result(30) for future in pending] == [b"%d" % n for n in range(1000)]
    assert channel.front.metric("evenkeel_connections_active", listener="web") == 1


def test_a_cancelled_call_is_cancelled_at_the_server(channel, server):
    future = call(channel, "unary_unary", "Stall").future(b"")
    assert server.calls.entered.wait(20)
    future.cancel()
    assert server.calls.cancelled.wait(20), "the server must hear of it"


def test_a_stream_that_is_not_read_is_held_back_and_cancelled(channel, server):
    stream = call(channel, "unary_stream", "Endless")(b"")
    assert next(stream) == b"x" * 1000
    echo = call(channel, "unary_unary", "Echo")
    for _ in range(50):
        assert echo(b"meanwhile") == b"meanwhile"
    stream.cancel()
    assert server.calls.cancelled.wait(20)


def test_a_deadline_ends_the_call_on_both_sides(channel, server):
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, "unary_unary", "Stall")(b"", timeout=0.3)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.calls.cancelled.wait(20)


def test_our_own_errors_are_errors_of_grpc(proxy, server):
    server.stop()
    front = proxy(config(server))
    with open_channel(front) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            call(channel, "unary_unary", "Echo")(b"")
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "connect_refused" in raised.value.details()
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/other.Calls/Echo", None, None)(b"")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "no_route" in raised.value.details()


def test_checks_by_the_health_protocol(proxy, server):
    other = Server()
    upstream = 'health = { grpc = "shop.Calls", interval = "100ms", timeout = "2s", rise = 1, fall = 1 }'
    front = proxy(config(server, other, upstream=upstream))

    def healthy():
        return front.metric("evenkeel_upstream_server_healthy", upstream="calls")

    with open_channel(front) as channel:
        echo = call(channel, "unary_unary", "Echo")
        other.set(health_pb2.HealthCheckResponse.NOT_SERVING)
        eventually(lambda: healthy() == 1)
        before = other.calls.served
        for _ in range(20):
            assert echo(b"a") == b"a"
        assert other.calls.served == before, "a server that says NOT_SERVING gets no calls"
        other.set(health_pb2.HealthCheckResponse.SERVING)
        eventually(lambda: healthy() == 2)
    other.stop()


def test_a_server_that_stops_with_grace_costs_no_call(proxy, server):
    other = Server()
    front = proxy(config(server, other, upstream="retry = { attempts = 2 }"))
    failed, done, stop = [], [0], threading.Event()

    def load():
        with open_channel(front) as channel:
            echo = call(channel, "unary_unary", "Echo")
            while not stop.is_set():
                try:
                    assert echo(b"load", timeout=20) == b"load"
                    done[0] += 1
                except grpc.RpcError as error:
                    # What this server says itself, to anybody, of calls that it has taken but not
                    # begun when it stops.
                    if error.code() is not grpc.StatusCode.CANCELLED:
                        failed.append((error.code(), error.details()))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        before = done[0]
        eventually(lambda: done[0] > before + 200)
        other.stop(grace=5)
        before = done[0]
        eventually(lambda: done[0] > before + 200)
        other = Server(port=other.port)
    stop.set()
    for thread in threads:
        thread.join()
    other.stop()
    assert failed == []


def test_calls_over_tls_on_both_sides(proxy, certificates):
    pem, key = (certificates / "site.pem").read_bytes(), (certificates / "site.key").read_bytes()
    authority = (certificates / "ca.pem").read_bytes()
    server = Server(grpc.ssl_server_credentials([(key, pem)]))
    tls = f"""[listener.tls]
certificates = [{{ cert = "{certificates}/site.pem", key = "{certificates}/site.key" }}]"""
    front = proxy(
        config(server, upstream=f'tls = {{ ca = "{certificates}/ca.pem" }}', listener=tls)
    )
    credentials = grpc.ssl_channel_credentials(authority)
    address = f"localhost:{front.ports['web']}"
    with grpc.secure_channel(address, credentials, options=OPTIONS) as channel:
        assert call(channel, "unary_unary", "Echo")(b"s" * MIB) == b"s" * MIB
        assert len(list(call(channel, "unary_stream", "Count")(b"1000"))) == 1000
    server.stop()


def test_a_quiet_stream_stays_open(channel):
    """Keep-alive pings of a client that waits are no attack."""
    options = [
        *OPTIONS,
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    address = f"127.0.0.1:{channel.front.ports['web']}"
    with grpc.insecure_channel(address, options=options) as quiet:
        spoken = threading.Event()

        def words():
            yield b"first"
            spoken.wait(20)
            yield b"last"

        answers = call(quiet, "stream_stream", "Talk")(words())
        assert next(answers) == b"you said first"
        time.sleep(4)
        spoken.set()
        assert next(answers) == b"you said last"
