"""Python's httpx against a gateway before `origin.mjs`. Arguments as of `clients.mjs`. Says "in order", or fails."""

import asyncio
import ssl
import sys

import httpx

base, *authority = sys.argv[1:]
# The name in the certificate, wherever it is.
EXTENSIONS = {"sni_hostname": "edge.example"}
HEADERS = {"host": "edge.example"}


def verify():
    return ssl.create_default_context(cafile=authority[0]) if authority else False


def blocking():
    with httpx.Client(http1=False, http2=True, verify=verify(), headers=HEADERS, timeout=20) as client:
        for server in ("h1", "h2"):
            def ask(method, path, **more):
                return client.request(method, f"{base}/{server}/{path}", extensions=EXTENSIONS, **more)

            answer = ask("GET", "bytes/16384")
            assert (answer.http_version, answer.status_code, answer.text) == ("HTTP/2", 200, "x" * 16384), answer
            answer = ask("HEAD", "bytes/77")
            assert (answer.headers["content-length"], answer.content) == ("77", b""), answer
            body = b"0123456789" * 50_000
            assert ask("POST", "echo", content=body).content == body
            # A body of no announced length.
            assert ask("POST", "echo", content=iter([b"one", b"", b"two"])).content == b"onetwo"
            assert ask("GET", "nothing").status_code == 204
            with client.stream("GET", f"{base}/{server}/bytes/1000000", extensions=EXTENSIONS) as answer:
                assert sum(len(piece) for piece in answer.iter_bytes(997)) == 1_000_000
            try:
                ask("GET", "broken")
            except httpx.HTTPError:
                continue
            raise AssertionError("half of it must not look whole")


async def concurrent():
    async with httpx.AsyncClient(http1=False, http2=True, verify=verify(), headers=HEADERS, timeout=20) as client:
        async def ask(server, count):
            answer = await client.get(f"{base}/{server}/bytes/{count}", extensions=EXTENSIONS)
            return len(answer.content)

        for server in ("h1", "h2"):
            counts = [n * 1000 for n in range(60)]
            assert await asyncio.gather(*(ask(server, count) for count in counts)) == counts


blocking()
asyncio.run(concurrent())
print("in order")
