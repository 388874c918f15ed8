"""A client of gRPC against a gateway before `grpc_server.py`. Arguments: the gateway's address, and a file that holds
its authority where it speaks TLS. Says "in order", or fails.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

address, *authority = sys.argv[1:]
OPTIONS = (("grpc.ssl_target_name_override", "edge.example"), ("grpc.default_authority", "edge.example"))
if authority:
    credentials = grpc.ssl_channel_credentials(open(authority[0], "rb").read())
    channel = grpc.secure_channel(address, credentials, OPTIONS)
else:
    channel = grpc.insecure_channel(address, OPTIONS)

unary = channel.unary_unary("/lab.Lab/Unary")
answers = channel.unary_stream("/lab.Lab/Answers")
count = channel.stream_unary("/lab.Lab/Count")
echo = channel.stream_stream("/lab.Lab/Echo")
never = channel.unary_stream("/lab.Lab/Never")
left = channel.unary_unary("/lab.Lab/Left")


def failing(call):
    try:
        result = call()
        if hasattr(result, "__next__"):
            list(result)
    except grpc.RpcError as error:
        return error
    raise AssertionError("it should have failed")


# One message each way, with metadata at both ends of the answer; a name in -bin is base64 on its way.
octets = bytes(range(256))
answer, call = unary.with_call(b"hello", metadata=(("x-given-bin", octets),), timeout=20)
initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
assert answer == b"olleh", answer
assert (initial["x-initial"], initial["x-seen-bin"]) == ("first", octets), initial
assert trailing["x-trailing"] == "last", trailing
assert call.code() == grpc.StatusCode.OK
for size in (0, 1, 16 * 1024, 1024 * 1024, 3 * 1024 * 1024):
    message = b"ab" * (size // 2) + b"c" * (size % 2)
    assert unary(message, timeout=20) == message[::-1], size

# Many calls at once, and they share one connection to the server.
with futures.ThreadPoolExecutor(32) as pool:
    calls = list(pool.map(lambda n: unary.with_call(b"%d" % n, timeout=20), range(200)))
assert [answer for answer, _ in calls] == [(b"%d" % n)[::-1] for n in range(200)]
peers = {dict(call.trailing_metadata())["x-peer"] for _, call in calls}
assert len(peers) == 1, peers

# Streams of messages in either direction, and in both.
assert list(answers(b"500", timeout=20)) == [b"%d" % n for n in range(500)]
assert list(answers(b"0", timeout=20)) == []
assert count((b"x" * 1000 for _ in range(500)), timeout=20) == b"500000"
assert count(iter(()), timeout=20) == b"0"
assert list(echo((b"%d" % n for n in range(500)), timeout=20)) == [b"%d" % n for n in range(500)]
# A conversation: each message is sent when the answer to the last has come.
turns = iter([b"one", b"two", b"three"])
heard = []
begun = threading.Event()


def conversation():
    # grpc asks for the first message from another thread, perhaps before the call has its name.
    begun.wait(20)
    for turn in turns:
        yield turn
        heard.append(next(talk))


talk = echo(conversation(), timeout=20)
begun.set()
rest = []
deadline = time.monotonic() + 20
while len(heard) < 3 and time.monotonic() < deadline:
    time.sleep(0.005)
assert (heard, list(talk)) == ([b"one", b"two", b"three"], []), heard

# The server's own refusal, its message as it was.
error = failing(lambda: channel.unary_unary("/lab.Lab/Fail")("no: ü, 100 %\n".encode(), timeout=20))
assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "no: ü, 100 %\n"), error
assert dict(error.trailing_metadata())["x-trailing"] == "last", error
late = channel.unary_stream("/lab.Lab/FailLate")(b"", timeout=20)
assert next(late) == b"before"
error = failing(lambda: late)
assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "half of it is gone"), error

# A deadline: the server is told of it, and that the client has given up.
call = never(b"", timeout=1)
remaining_ms = int(next(call))
# It is rounded up on its way, to three digits.
assert 0 < remaining_ms <= 1020, remaining_ms
error = failing(lambda: call)
assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
assert left(b"", timeout=30) == b"yes", "the server does not hear of the deadline"
# A cancellation is heard by the server as well.
call = never(b"", timeout=30)
next(call)
call.cancel()
assert left(b"", timeout=30) == b"yes", "the server does not hear that its client has gone"

# What the gateway says itself.
for service, code in (
    ("lab.Unknown", grpc.StatusCode.UNIMPLEMENTED),
    ("lab.Gone", grpc.StatusCode.UNAVAILABLE),
    ("lab.Locked", grpc.StatusCode.UNAUTHENTICATED),
):
    error = failing(lambda: channel.unary_unary(f"/{service}/Any")(b"", timeout=20))
    assert error.code() == code and error.details(), f"{service}: {error}"
# What the server does not know is the server's to say.
error = failing(lambda: channel.unary_unary("/lab.Lab/Unknown")(b"", timeout=20))
assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
assert unary(b"still here", timeout=20) == b"ereh llits"
print("in order")
