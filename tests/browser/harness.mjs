// A server and a browser for each test that wants one, and what both need.

import { spawn } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { chromium } = createRequire(process.env.MODULES)("playwright-core");

/** A server on a port of the loopback; 0: a free one. */
export class Server {
  static async start(options = [], port = 0) {
    const args = ["serve", "--bind", "127.0.0.1", "--port", String(port), ...options];
    const child = spawn(process.env.RDLM, args, { stdio: ["ignore", "ignore", "pipe"] });
    for await (const line of createInterface({ input: child.stderr })) {
      const found = /listening on 127\.0\.0\.1:(\d+)/.exec(line);
      if (!found) continue;
      child.stderr.resume(); // nobody reads it, and it must not fill up
      return new Server(child, Number(found[1]));
    }
    throw new Error("the server did not start");
  }

  constructor(child, port) {
    this.child = child;
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.waits = new AbortController();
  }

  async stop() {
    this.waits.abort();
    const ended = once(this.child, "exit");
    if (this.child.exitCode === null && this.child.kill("SIGKILL")) await ended;
  }

  /** Acquires a lock that is free; returns its path. */
  async hold(resource, title = "a test", more = {}) {
    const response = await this.post(resource, { title, wait: 0, lifetime: 600, ...more });
    if (response.status !== 201) throw new Error(`${response.status}: ${await response.text()}`);
    return new URL(response.headers.get("Location")).pathname;
  }

  /** Joins the line; the promise is that of the answer. */
  async wait(resource, title, more = {}) {
    const before = (await this.locks(resource)).length;
    const body = { title, wait: 600, lifetime: 600, ...more };
    const answer = this.post(resource, body, this.waits.signal).then((r) => r.status, () => null);
    await until("the request waits", async () => (await this.locks(resource)).length > before);
    return { answer };
  }

  /** Waits for a held lock to be converted; the promise is that of the answer. */
  async convert(path, mode) {
    const options = { method: "PATCH", body: JSON.stringify({ mode, wait: 600 }), signal: this.waits.signal };
    const answer = fetch(this.url + path, options).then((r) => r.status, () => null);
    const uid = path.split("/").at(-1);
    const waits = (lock) => lock.uid === uid && lock.converting_to === mode;
    await until("the conversion waits", async () => (await this.locks(path.split("/").at(-2))).some(waits));
    return { answer };
  }

  post(resource, body, signal) {
    return fetch(`${this.url}/locks/${resource}`, { method: "POST", body: JSON.stringify(body), signal });
  }

  async locks(resource) {
    const response = await fetch(`${this.url}/resources/${resource}`);
    return (await response.json())._embedded?.locks ?? [];
  }
}

/** A browser with a profile of its own. */
export async function openBrowser() {
  const root = process.getuid?.() === 0;
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    headless: true,
    args: [
      "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", ...(root ? ["--no-sandbox"] : []),
    ],
  });
}

/** A page that notes what must not happen in it, and what takes long. */
export async function openPage(browser, url, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.complaints = [];
  page.on("dialog", (dialog) => { page.complaints.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("pageerror", (error) => page.complaints.push(`error: ${error}`));
  page.on("console", (message) => {
    // The network's own words about a server that is gone, or refuses.
    const expected = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !expected) page.complaints.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) page.complaints.push(`request: ${request.url()}`);
  });
  await page.addInitScript(() => {
    window.longTasks = [];
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) => window.violations.push(event.blockedURI));
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) window.longTasks.push(Math.round(entry.duration));
    }).observe({ type: "longtask", buffered: true });
  });
  await page.goto(url);
  return page;
}

/** Hands everything below a prefix on, as a reverse proxy does. */
export async function startProxy(prefix, port) {
  const proxy = http.createServer((request, response) => {
    if (!request.url.startsWith(prefix)) return response.writeHead(404).end();
    const path = request.url.slice(prefix.length - 1);
    const onward = http.request({ port, path, method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    request.pipe(onward);
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const stop = () => { proxy.close(); proxy.closeAllConnections(); };
  return { url: `http://127.0.0.1:${proxy.address().port}${prefix}`, stop };
}

/** Looks again until it holds. */
export async function until(what, holds, patience = 30_000) {
  const end = Date.now() + patience;
  while (!await holds()) {
    if (Date.now() > end) throw new Error(`in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
