// Node's clients of both versions against a gateway before `origin.mjs`. Arguments: where HTTP/2 and HTTP/1.1 are
// spoken, as a URL, and a file that holds the authority where that is https. Says "in order", or fails.

import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";

const [base, authority] = process.argv.slice(2);
const ca = authority && fs.readFileSync(authority);
const { hostname, port, protocol } = new URL(base);
// The name in the certificate, wherever it is.
const named = { servername: "edge.example", ca };

const whole = (stream) =>
    new Promise((resolve, reject) => {
        const pieces = [];
        stream.on("data", (data) => pieces.push(data));
        stream.on("error", reject);
        stream.on("aborted", () => reject(new Error("aborted")));
        stream.on("end", () => resolve(Buffer.concat(pieces).toString()));
    });

// One request: status, headers, interim statuses, body, trailers.
const multiplexed = (session) => async (method, path, body, trailers) => {
    const headers = { ":method": method, ":path": path, ":authority": "edge.example" };
    const stream = session.request(headers, { endStream: body === undefined, waitForTrailers: trailers !== undefined });
    stream.setTimeout(20_000, () => stream.destroy(new Error("timed out")));
    const told = { interim: [], trailers: {} };
    stream.on("wantTrailers", () => stream.sendTrailers(trailers));
    stream.on("headers", (headers) => told.interim.push(headers[":status"]));
    stream.on("trailers", (trailers) => (told.trailers = trailers));
    const head = new Promise((resolve, reject) => (stream.on("response", resolve), stream.on("error", reject)));
    if (body !== undefined) stream.end(body);
    const [headersOfIt, text] = await Promise.all([head, whole(stream)]);
    if (stream.rstCode !== http2.constants.NGHTTP2_NO_ERROR) throw new Error(`reset: ${stream.rstCode}`);
    return { status: headersOfIt[":status"], headers: headersOfIt, body: text, ...told };
};

const one = (agent) => (method, path, body, trailers) =>
    new Promise((resolve, reject) => {
        const headers = { host: "edge.example", ...(trailers && { trailer: "x-sum" }) };
        const request = (protocol === "https:" ? https : http).request({ hostname, port, agent, method, path, headers, timeout: 20_000, ...named });
        const interim = [];
        request.on("information", ({ statusCode }) => interim.push(statusCode));
        request.on("error", reject);
        request.on("timeout", () => request.destroy(new Error("timed out")));
        request.on("response", (response) => {
            const told = { status: response.statusCode, headers: response.headers, interim };
            whole(response).then((body) => resolve({ ...told, body, trailers: response.trailers }), reject);
        });
        if (body !== undefined) request.write(body);
        if (trailers !== undefined) request.addTrailers(trailers);
        request.end();
    });

const check = async (ask, client, server) => {
    const of = (path) => `/${server}/${path}`;
    const name = `${client} to ${server}`;
    const seen = await ask("GET", of("seen?q=1"));
    assert.equal(seen.status, 200, name);
    const lines = seen.body.split("\n");
    assert.deepEqual(lines.slice(0, 3), [server === "h1" ? "1.1" : "2.0", "GET", of("seen?q=1")], name);
    assert.ok(lines.includes(`x-forwarded-proto: ${protocol.slice(0, -1)}`), `${name}: ${seen.body}`);
    assert.ok(lines.includes(`via: ${client === "h1" ? "1.1" : "2.0"} portcullis`), `${name}: ${seen.body}`);

    for (const count of [0, 1, 16_384, 1_000_000]) {
        const { body, headers } = await ask("GET", of(`bytes/${count}`));
        assert.deepEqual([body.length, headers["content-length"], /[^x]/.test(body)], [count, String(count), false], name);
    }
    const head = await ask("HEAD", of("bytes/77"));
    assert.deepEqual([head.status, head.headers["content-length"], head.body], [200, "77", ""], name);
    const nothing = await ask("GET", of("nothing"));
    assert.deepEqual([nothing.status, nothing.headers["content-length"], nothing.body], [204, undefined, ""], name);

    const pieces = await ask("GET", of("pieces"));
    assert.deepEqual([pieces.body, pieces.trailers["x-sum"]], ["onetwothree", "7"], name);
    const large = "0123456789".repeat(100_000);
    for (const sent of ["", "hello", large]) {
        const echo = await ask("POST", of("echo"), sent, { "x-sum": "9" });
        assert.ok(echo.body === sent, `${name}: ${echo.body.length} of ${sent.length} octets came back`);
        assert.equal(echo.trailers["x-sum"], "9", `${name}: the trailer of ${sent.length} octets`);
    }
    const hints = await ask("GET", of("hints"));
    assert.deepEqual([hints.interim, hints.status, hints.body], [[103], 200, "final"], name);
    await assert.rejects(ask("GET", of("broken")), undefined, `${name}: half of it must not look whole`);
    assert.equal((await ask("GET", of("unknown"))).status, 404, name);

    const many = await Promise.all(Array.from({ length: 40 }, (_, n) => ask("GET", of(`bytes/${n * 1_000}`))));
    assert.deepEqual(many.map(({ body }) => body.length), Array.from({ length: 40 }, (_, n) => n * 1_000), name);
};

const session = http2.connect(base, named);
await new Promise((resolve, reject) => (session.on("connect", resolve), session.on("error", reject)));
const agent = new (protocol === "https:" ? https : http).Agent({ keepAlive: true, maxSockets: 4 });
for (const server of ["h1", "h2"]) {
    await check(multiplexed(session), "h2", server);
    await check(one(agent), "h1", server);

    // A client that wants no answer any more: its server hears of it, and the session goes on.
    const count = async () => Number((await multiplexed(session)("GET", `/${server}/gone`)).body);
    const before = await count();
    const stream = session.request({ ":path": `/${server}/never`, ":authority": "edge.example" });
    stream.on("error", () => {});
    // A ping that was answered has gone behind the request.
    await new Promise((resolve, reject) => session.ping((error) => (error ? reject(error) : resolve())));
    stream.close(http2.constants.NGHTTP2_CANCEL);
    const deadline = Date.now() + 20_000;
    while ((await count()) === before) assert.ok(Date.now() < deadline, `${server} does not hear that its client has gone`);
}
assert.equal(session.closed || session.destroyed, false, "one connection for all of it");
await new Promise((resolve) => session.close(resolve));
agent.destroy();
console.log("in order");
