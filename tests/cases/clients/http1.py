"""Python's own clients against a gateway. Arguments: a gateway before files, one before a server that takes one
chunked body with the trailer X-Sum. Says "in order", or fails."""

import hashlib
import http.client
import socket
import sys
import urllib.error
import urllib.request

files, uploads = sys.argv[1:]
EXPECTED = hashlib.sha256(b"x" * 16 * 1024).hexdigest()


def check(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


# One connection carries them all.
connection = http.client.HTTPConnection(files, timeout=20)
connection.connect()
used = connection.sock
for _ in range(5):
    connection.request("GET", "/files/16k")
    response = connection.getresponse()
    check((response.status, response.version), (200, 11))
    check(hashlib.sha256(response.read()).hexdigest(), EXPECTED)
    assert connection.sock is used, "another connection was made"
connection.request("HEAD", "/files/16k")
response = connection.getresponse()
check((response.status, response.headers["Content-Length"], response.read()), (200, "16384", b""))
connection.request("GET", "/files/16k", headers={"Range": "bytes=0-3"})
response = connection.getresponse()
check((response.status, response.read()), (206, b"xxxx"))
connection.request("OPTIONS", "*")
response = connection.getresponse()
response.read()
assert response.status < 500, response.status
assert connection.sock is used, "another connection was made"
# A server that answers before it has the body may cost the connection: it is the last.
connection.request("POST", "/echo", body=iter([b"one", b"two"]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
response = connection.getresponse()
check(response.status, 200)
response.read()
connection.close()

with urllib.request.urlopen(f"http://{files}/files/16k", timeout=20) as response:
    check(hashlib.sha256(response.read()).hexdigest(), EXPECTED)
try:
    urllib.request.urlopen(urllib.request.Request(f"http://{files}/", method="TRACE"), timeout=20)
    raise AssertionError("TRACE was taken")
except urllib.error.HTTPError as error:
    check(error.code, 405)

# http.client sends no trailers: by hand.
host, port = uploads.rsplit(":", 1)
with socket.create_connection((host, int(port)), timeout=20) as stream:
    stream.sendall(b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
    for piece in (b"5\r\nhel", b"lo\r", b"\n0\r\nX-Su", b"m: 7\r\n\r\n"):
        stream.sendall(piece)
    response = http.client.HTTPResponse(stream)
    response.begin()
    check((response.status, response.read()), (200, b"hello"))

print("in order")
