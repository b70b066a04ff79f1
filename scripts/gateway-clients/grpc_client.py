#!/usr/bin/python3
"""grpc_client.py ADDRESS [ROOT]   every kind of gRPC call to grpc.test at ADDRESS, over TLS where a root is given.

The last line says whether all went as they should; before it comes what is wrong with those that did not.
"""
import hashlib
import os
import sys
import traceback
from concurrent import futures

import grpc
from grpc import StatusCode

ADDRESS, ROOT = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None


def connect(authority):
    options = [("grpc.max_receive_message_length", 8 << 20), ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    if not ROOT:
        return grpc.insecure_channel(ADDRESS, [*options, ("grpc.default_authority", authority)])
    with open(ROOT, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(ADDRESS, credentials, [*options, ("grpc.ssl_target_name_override", authority)])


channel = connect("grpc.test")
WITHIN = {"timeout": 20}


def call(kind, method, of=channel):
    return getattr(of, kind)(f"/shop.Cart/{method}")


def refused(code, asked):
    """The error of what is asked, which must have this code."""
    try:
        answer = asked()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"answered: {answer!r}")


def unary():
    for message in (b"", b"x", os.urandom(100)):
        assert call("unary_unary", "Echo")(message, **WITHIN) == message


def a_megabyte():
    message = os.urandom(1 << 20)
    assert call("unary_unary", "Echo")(message, **WITHIN) == message
    assert list(call("stream_stream", "Chat")(iter([message] * 3), **WITHIN)) == [b"you said " + message] * 3


def compressed():
    message = b"again and " * 10_000
    assert call("unary_unary", "Echo")(message, compression=grpc.Compression.Gzip, **WITHIN) == message


def many_at_once():
    with futures.ThreadPoolExecutor(50) as pool:
        asked = {n: pool.submit(call("unary_unary", "Echo"), b"%d" % n, **WITHIN) for n in range(500)}
    assert all(answer.result() == b"%d" % n for n, answer in asked.items())


def server_streaming():
    messages = list(call("unary_stream", "Count")(b"1000 300", **WITHIN))
    assert messages == [bytes([n % 251]) * 300 for n in range(1000)], len(messages)
    assert list(call("unary_stream", "Count")(b"0 0", **WITHIN)) == []


def messages_come_when_they_are_sent():
    messages = call("unary_stream", "Held")(b"", **WITHIN)
    assert next(messages) == b"first"
    call("unary_unary", "Release")(b"", **WITHIN)
    assert next(messages) == b"second"


def client_streaming():
    messages = [os.urandom(10_000) for _ in range(100)]
    whole = hashlib.sha256(b"".join(messages)).hexdigest()
    assert call("stream_unary", "Total")(iter(messages), **WITHIN) == f"100 {whole}".encode()
    assert call("stream_unary", "Total")(iter([]), **WITHIN).startswith(b"0 ")


def both_ways_in_turn():
    """The next message is sent only when the last one was answered."""
    said, turn = [], futures.Future()

    def messages():
        nonlocal turn
        for n in range(100):
            yield b"%d" % n
            turn.result(10)
            turn = futures.Future()

    for answer in call("stream_stream", "Chat")(messages(), **WITHIN):
        said.append(answer)
        turn.set_result(None)
    assert said == [b"you said %d" % n for n in range(100)], said


def error_with_trailers():
    for before in (0, 3):
        messages = call("unary_stream", "Refuse")(b"%d" % before, **WITHIN)
        assert [next(messages) for _ in range(before)] == [b"before"] * before
        error = refused(StatusCode.FAILED_PRECONDITION, lambda: next(messages))
        assert error.details() == "the cart is empty: 100 % leer – é", error.details()
        trailers = dict(error.trailing_metadata())
        assert (trailers["x-why"], trailers["x-why-bin"]) == ("because", b"\x00\xff"), trailers


def metadata():
    sent = (("x-text", "a b"), ("x-twice", "1"), ("x-twice", "2"), ("x-some-bin", bytes(range(256))))
    _, answered = call("unary_unary", "Metadata").with_call(b"", metadata=sent, **WITHIN)
    for found in (answered.initial_metadata(), answered.trailing_metadata()):
        found = [(key, value) for key, value in found if key.startswith("seen-")]
        seen = {key: value for key, value in found}
        twice = ",".join(value for key, value in found if key == "seen-x-twice").replace(" ", "")
        assert (seen["seen-x-text"], twice, seen["seen-x-some-bin"]) == ("a b", "1,2", bytes(range(256))), found
        assert seen["seen-x-forwarded-for"] == "127.0.0.1" and "seen-x-request-id" in seen, found


def deadline():
    messages = call("unary_stream", "Wait")(b"", timeout=0.7)
    given = float(next(messages))
    # The header counts in whole units, rounded up.
    assert 0 < given < 0.8, given
    refused(StatusCode.DEADLINE_EXCEEDED, lambda: next(messages))
    assert call("unary_unary", "WasEnded")(b"", **WITHIN) == b"ended"


def cancelled():
    messages = call("unary_stream", "Wait")(b"")
    assert next(messages) == b"-"
    messages.cancel()
    assert call("unary_unary", "WasEnded")(b"", **WITHIN) == b"ended"


def unknown_method():
    refused(StatusCode.UNIMPLEMENTED, lambda: call("unary_unary", "Nothing")(b"", **WITHIN))


def unknown_host():
    with connect("a-name-without-route.grpc.test") as other:
        refused(StatusCode.UNIMPLEMENTED, lambda: call("unary_unary", "Echo", other)(b"", **WITHIN))


def backend_away():
    with connect("away.grpc.test") as other:
        refused(StatusCode.UNAVAILABLE, lambda: call("unary_unary", "Echo", other)(b"", **WITHIN))


CASES = (unary, a_megabyte, compressed, many_at_once, server_streaming, messages_come_when_they_are_sent, client_streaming,
         both_ways_in_turn, error_with_trailers, metadata, deadline, cancelled, unknown_method, unknown_host, backend_away)
failed = 0
for case in CASES:
    try:
        case()
    except Exception:
        failed += 1
        print(f"{case.__name__}: {traceback.format_exc()}", flush=True)
print(f"{failed} of {len(CASES)} calls went wrong" if failed else "every call went as it should")
