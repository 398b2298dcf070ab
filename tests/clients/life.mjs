// The life of a lock with a library for Node.js: life.mjs LIBRARY URL.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import http from "node:http";

const [library, base] = process.argv.slice(2);
const require = createRequire(process.env.MODULES + "/");

/** One call of each library: { status, headers, text }, headers in lower case. */
const libraries = {
  http() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    return (method, url, body, timeout) => new Promise((resolve, reject) => {
      const headers = body ? { "Content-Length": Buffer.byteLength(body) } : {};
      const request = http.request(url, { method, agent, headers, signal: AbortSignal.timeout(timeout) });
      request.on("error", reject);
      request.on("response", (answer) => {
        let text = "";
        answer.on("data", (data) => { text += data; });
        answer.on("end", () => resolve({ status: answer.statusCode, headers: answer.headers, text }));
      });
      request.end(body);
    });
  },
  fetch() {
    return async (method, url, body, timeout) => {
      const answer = await fetch(url, { method, body, signal: AbortSignal.timeout(timeout) });
      return { status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text() };
    };
  },
  undici() {
    const { request } = require("undici");
    return async (method, url, body, timeout) => {
      const answer = await request(url, { method, body, signal: AbortSignal.timeout(timeout) });
      return { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() };
    };
  },
  axios() {
    const axios = require("axios");
    const httpAgent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    return async (method, url, data, timeout) => {
      const options = { httpAgent, timeout, validateStatus: null, transformResponse: [] };
      const answer = await axios.request({ method, url, data, ...options });
      return { status: answer.status, headers: answer.headers, text: answer.data };
    };
  },
};

const call = libraries[library]();
const lock = (wait, lifetime) => JSON.stringify({ title: library, wait, lifetime });

async function expect(status, method, path, body) {
  const answer = await call(method, base + path, body, 60_000);
  assert.equal(answer.status, status, `${method} ${path}: ${answer.text}`);
  return answer;
}

await expect(201, "POST", "/locks/life", lock(0, 1));
await expect(408, "POST", "/locks/life", lock(0.2, 60));
const granted = await expect(201, "POST", "/locks/life", lock(30, 60));
const path = new URL(granted.headers.location).pathname;
assert.equal(JSON.parse(granted.text).active, true);
const renewed = await expect(200, "PATCH", path, '{"lifetime":30}');
assert.equal(JSON.parse(renewed.text).lifetime, 30);
await expect(200, "GET", path);
await assert.rejects(call("POST", base + "/locks/life", lock(30, 60), 500));
await expect(204, "DELETE", path);
await expect(404, "DELETE", path);
await expect(413, "POST", "/locks/life", " ".repeat(70_000));
for (let n = 0; n < 100; n += 1) await expect(200, "GET", "/");
