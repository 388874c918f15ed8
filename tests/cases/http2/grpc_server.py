"""A server of gRPC, without generated code: its messages are octets. Arguments: a key and a certificate, or none for
HTTP/2 in clear. Says "listening PORT".
"""

import sys
import threading
from concurrent import futures

import grpc

ended = threading.Semaphore(0)


def unary(request, context):
    told = {key: value for key, value in context.invocation_metadata()}
    context.send_initial_metadata((("x-initial", "first"), ("x-seen-bin", told.get("x-given-bin", b""))))
    context.set_trailing_metadata((("x-trailing", "last"), ("x-peer", context.peer())))
    return request[::-1]


def answers(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def count(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def echo(requests, context):
    for request in requests:
        yield request


def fail(request, context):
    context.set_trailing_metadata((("x-trailing", "last"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())


def fail_late(request, context):
    yield b"before"
    context.abort(grpc.StatusCode.DATA_LOSS, "half of it is gone")


def never(request, context):
    """No answer; who waits for `left` hears when the call has ended."""
    context.add_callback(ended.release)
    yield b"%d" % int(1000 * (context.time_remaining() or 0))
    while context.is_active():
        if threading.Event().wait(0.02):
            return


def left(request, context):
    return b"yes" if ended.acquire(timeout=20) else b"no"


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Answers": grpc.unary_stream_rpc_method_handler(answers),
    "Count": grpc.stream_unary_rpc_method_handler(count),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Never": grpc.unary_stream_rpc_method_handler(never),
    "Left": grpc.unary_unary_rpc_method_handler(left),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lab.Lab", METHODS),))
if len(sys.argv) > 1:
    key, certificate = (open(file, "rb").read() for file in sys.argv[1:])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(((key, certificate),)))
else:
    port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"listening {port}", flush=True)
server.wait_for_termination()
