#!/usr/bin/python3
"""A gRPC service of Debian's python3-grpcio without generated code: a message is bytes. Its methods are those of grpc_client.py."""
import hashlib
import threading
from concurrent import futures

import grpc

released = threading.Event()
ended = threading.Semaphore(0)


def echo(request, _):
    return request


def count(request, _):
    """`N SIZE`: N messages of that size."""
    number, size = map(int, request.split())
    for n in range(number):
        yield bytes([n % 251]) * size


def held(_, context):
    """One message now, the other when Release was called."""
    released.clear()
    yield b"first"
    if not released.wait(10):
        context.abort(grpc.StatusCode.INTERNAL, "nobody called Release")
    yield b"second"


def release(*_):
    released.set()
    return b""


def total(requests, _):
    """How many messages there were, and the hash of them all."""
    whole, number = hashlib.sha256(), 0
    for message in requests:
        whole.update(message)
        number += 1
    return f"{number} {whole.hexdigest()}".encode()


def chat(requests, _):
    for message in requests:
        yield b"you said " + message


def refuse(request, context):
    """`N`: so many messages, then an error with all that an error can have."""
    for _ in range(int(request)):
        yield b"before"
    context.set_trailing_metadata((("x-why", "because"), ("x-why-bin", b"\x00\xff")))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the cart is empty: 100 % leer – é")


def metadata(_, context):
    """All that came, as the answer's first metadata and as its trailers."""
    came = tuple((f"seen-{key}", value) for key, value in context.invocation_metadata() if key.startswith("x-"))
    context.send_initial_metadata(came)
    context.set_trailing_metadata(came)
    return b""


def wait(_, context):
    """Says how much time it was given, then ends when the caller has gone away."""
    context.add_callback(ended.release)
    left = context.time_remaining()
    yield ("-" if left is None or left > 1e6 else f"{left:.3f}").encode()
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(10)


def was_ended(*_):
    """Whether one more call of Wait was seen to end."""
    return b"ended" if ended.acquire(timeout=5) else b"goes on"


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Held": grpc.unary_stream_rpc_method_handler(held),
    "Release": grpc.unary_unary_rpc_method_handler(release),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Refuse": grpc.unary_stream_rpc_method_handler(refuse),
    "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
    "Wait": grpc.unary_stream_rpc_method_handler(wait),
    "WasEnded": grpc.unary_unary_rpc_method_handler(was_ended),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=[("grpc.max_receive_message_length", 8 << 20)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Cart", METHODS),))
assert server.add_insecure_port("10.101.0.3:9001") == 9001
server.start()
server.wait_for_termination()
