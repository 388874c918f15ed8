// A server behind the gateway, once in HTTP/1.1 and once in HTTP/2 in clear. Says "listening PORT PORT".

import http from "node:http";
import http2 from "node:http2";

let gone = 0;

const answers = {
    bytes: (request, response, [count]) => {
        response.writeHead(200, { "content-type": "text/plain", "content-length": count });
        response.end("x".repeat(Number(count)));
    },
    // What arrived, as text.
    seen: (request, response) => {
        const lines = [request.httpVersion, request.method, request.url, ...Object.entries(request.headers).map((pair) => pair.join(": "))];
        response.end(lines.join("\n"));
    },
    echo: (request, response) => {
        response.writeHead(200, { trailer: "x-sum" });
        request.on("data", (data) => response.write(data) || (request.pause(), response.once("drain", () => request.resume())));
        request.on("end", () => {
            response.addTrailers({ "x-sum": request.trailers["x-sum"] ?? "none" });
            response.end();
        });
    },
    // The same when all of it has come.
    whole: (request, response) => {
        const pieces = [];
        request.on("data", (data) => pieces.push(data));
        request.on("end", () => {
            response.writeHead(200, { trailer: "x-sum" });
            response.write(Buffer.concat(pieces));
            response.addTrailers({ "x-sum": request.trailers["x-sum"] ?? "none" });
            response.end();
        });
    },
    pieces: (request, response) => {
        response.writeHead(200, { trailer: "x-sum" });
        for (const piece of ["one", "two", "three"]) response.write(piece);
        response.addTrailers({ "x-sum": "7" });
        response.end();
    },
    hints: (request, response) => {
        response.writeEarlyHints({ link: "</a>; rel=preload" });
        response.end("final");
    },
    nothing: (request, response) => {
        response.writeHead(204);
        response.end();
    },
    // Half of what was said, and then the end of it.
    broken: (request, response) => {
        response.writeHead(200, { "content-length": 1000 });
        response.write("half", () => (response.stream ? response.stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR) : request.socket.destroy()));
    },
    // No answer: until its client leaves.
    never: (request, response) => response.on("close", () => (gone += 1)),
    gone: (request, response) => response.end(String(gone)),
};

const serve = (request, response) => {
    request.on("error", () => {});
    response.on("error", () => {});
    const [, , what, ...rest] = request.url.split("?")[0].split("/");
    (answers[what] ?? ((_, response) => (response.writeHead(404), response.end())))(request, response, rest);
};

const listen = (server) => new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));
const ports = [await listen(http.createServer(serve)), await listen(http2.createServer(serve))];
console.log(`listening ${ports.join(" ")}`);
