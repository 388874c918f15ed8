// Node's own clients against a gateway. Arguments: a gateway before files, one before a server that takes one chunked
// body with the trailer X-Sum. Says "in order", or fails.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import http from "node:http";
import net from "node:net";

const [files, uploads] = process.argv.slice(2);
const expected = createHash("sha256").update("x".repeat(16 * 1024)).digest("hex");

const exchange = (address, options, send = (request) => request.end()) =>
    new Promise((resolve, reject) => {
        const [host, port] = address.split(":");
        const request = http.request({ host, port, timeout: 20_000, ...options }, (response) => {
            const hash = createHash("sha256");
            let bytes = 0;
            const port = response.socket.localPort;
            response.on("data", (data) => (hash.update(data), (bytes += data.length)));
            response.on("error", reject);
            response.on("end", () =>
                resolve({ status: response.statusCode, headers: response.headers, bytes, hash: hash.digest("hex"), port }),
            );
        });
        request.on("error", reject);
        request.on("timeout", () => request.destroy(new Error("timed out")));
        send(request);
    });

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const answers = await Promise.all(Array.from({ length: 5 }, () => exchange(files, { agent, path: "/files/16k" })));
assert.deepEqual(answers.map(({ status, hash }) => [status, hash]), Array(5).fill([200, expected]));
const [{ port: used }] = answers;
assert.deepEqual(answers.map(({ port }) => port), Array(5).fill(used), "one connection");
const head = await exchange(files, { agent, method: "HEAD", path: "/files/16k" });
assert.deepEqual([head.status, head.headers["content-length"], head.bytes, head.port], [200, "16384", 0, used]);
const range = await exchange(files, { agent, path: "/files/16k", headers: { range: "bytes=5-9" } });
assert.deepEqual([range.status, range.bytes, range.port], [206, 5, used]);
agent.destroy();

const upload = await exchange(uploads, { method: "POST", path: "/up", headers: { trailer: "X-Sum" } }, (request) => {
    request.write("hel");
    request.write("lo");
    request.addTrailers({ "X-Sum": "7" });
    request.end();
});
assert.deepEqual([upload.status, upload.bytes], [200, 5]);

// A pipeline, cut where no message ends.
const pipeline = Array.from({ length: 8 }, (_, n) => `GET /pipelined/${n} HTTP/1.1\r\nHost: a\r\n${n === 7 ? "Connection: close\r\n" : ""}\r\n`).join("");
const received = await new Promise((resolve, reject) => {
    const [host, port] = files.split(":");
    const stream = net.connect({ host, port });
    let text = "";
    stream.setTimeout(20_000, () => stream.destroy(new Error("timed out")));
    stream.on("data", (data) => (text += data));
    stream.on("error", reject);
    stream.on("end", () => resolve(text));
    for (let at = 0; at < pipeline.length; at += 50) stream.write(pipeline.slice(at, at + 50));
});
const order = [...received.matchAll(/target: \/pipelined\/(\d)\n/g)].map(([, n]) => Number(n));
assert.deepEqual(order, [0, 1, 2, 3, 4, 5, 6, 7]);

console.log("in order");
