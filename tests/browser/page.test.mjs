// What an operator does with the status page, in Chromium.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";

import { openBrowser, openPage, Server, startProxy, until } from "./harness.mjs";

const axe = createRequire(process.env.MODULES)("axe-core");

let browser;
before(async () => { browser = await openBrowser(); });
after(() => browser.close());

/** A test with a server and a page on it; both are in order at its end. */
function onPage(name, body, { options = [], context = {} } = {}) {
  test(name, { timeout: 180_000 }, async (t) => {
    const server = await Server.start(options);
    t.after(() => server.stop());
    const page = await openPage(browser, server.url, context);
    t.after(() => page.context().close());
    await body(page, server, t);
    assert.deepEqual(page.complaints, []);
    assert.deepEqual(await page.evaluate(() => window.violations), []);
  });
}

const row = (page, text) => page.locator("#rows tr", { hasText: text });
const shown = (locator, timeout = 30_000) => locator.waitFor({ state: "visible", timeout });
const gone = (locator, timeout = 30_000) => locator.waitFor({ state: "hidden", timeout });
const panelSays = (page, text) => shown(page.locator("#panel", { hasText: text }));

onPage("an empty server says how to take a lock, and locks appear by themselves", async (page, server) => {
  await panelSays(page, "No locks");
  assert.match(await page.locator("#panel-command").textContent(), new RegExp(`^curl ${server.url}/locks/demo -d `));
  const path = await server.hold("backup", "nightly run on db1");
  const begin = Date.now();
  await shown(row(page, "nightly run on db1"));
  assert.ok(Date.now() - begin < 3000, `after ${Date.now() - begin} ms`);
  const text = await row(page, "backup").innerText();
  for (const part of ["EX", "127.0.0.1", "m ", "Release"]) assert.ok(text.includes(part), `${part}: ${text}`);
  await gone(page.locator("#panel"));
  await fetch(server.url + path, { method: "DELETE" });
  await panelSays(page, "No locks");
});

onPage("age and remaining lifetime go on between the answers", async (page, server) => {
  await server.hold("short", "short", { lifetime: 100 });
  await shown(row(page, "short"));
  await page.route(/\/status/, () => {}); // from now on nothing comes
  const scale = () => page.locator(".bar i").evaluate((bar) => new DOMMatrix(bar.style.transform).a);
  const [left, before] = [await page.locator(".left span").innerText(), await scale()];
  assert.match(left, /^1 m 39 s|^1 m 40 s|^1 m 3\d s/);
  await until("it ticks", async () => await page.locator(".left span").innerText() !== left && await scale() < before);
});

onPage("the search looks at resources, titles and clients, also of those who wait", async (page, server) => {
  await server.hold("alpha", "first job");
  await server.hold("beta", "second job");
  await server.wait("beta", "patient third");
  await shown(row(page, "second job"));
  const find = async (text, rows) => {
    await page.locator("#search").fill(text);
    await until(`${rows} rows for ${text}`, async () => await page.locator("#rows tr").count() === rows);
  };
  await find("ALPHA", 1);
  await find("job", 2);
  await find("second", 1);
  await find("127.0.0.1", 3);
  await find("patient", 2);
  assert.ok((await page.locator("#rows tr.waiter").innerText()).includes("patient third"));
  await find("no such thing", 0);
  await panelSays(page, "Nothing found");
  await find("", 2);
  await page.locator("h1").click();
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "search");
});

onPage("the line opens, in order, and a request is taken out of it", async (page, server) => {
  await server.hold("busy", "holder");
  const first = await server.wait("busy", "first in line");
  await server.wait("busy", "second in line");
  const button = page.locator(".line button", { hasText: "2 waiting" });
  await shown(button);
  assert.equal(await button.getAttribute("aria-expanded"), "false");
  await button.click();
  assert.equal(await button.getAttribute("aria-expanded"), "true");
  const waiters = page.locator("#rows tr.waiter");
  assert.equal(await waiters.count(), 2);
  const [one, two] = await waiters.allInnerTexts();
  assert.match(one, /next[^]*first in line[^]*127\.0\.0\.1[^]*gives up in/);
  assert.match(two, /2[^]*second in line/);
  await waiters.first().locator(".release").click();
  assert.match(await page.locator("#dialog").innerText(), /out of the line[^]*first in line[^]*409/);
  await page.locator("#confirm").click();
  assert.equal(await first.answer, 409);
  await until("one is left", async () => await waiters.count() === 1);
  await page.locator(".line button:visible").click();
  assert.equal(await waiters.count(), 0);
});

onPage("a lock is released after a question, and kept after Cancel and Escape", async (page, server) => {
  await server.hold("deploy", "deploy of web1");
  const next = await server.wait("deploy", "deploy of web2");
  await shown(page.locator(".line button", { hasText: "1 waiting" }));
  const dialog = page.locator("#dialog");
  const release = row(page, "deploy of web1").locator(".release");
  for (const cancel of [() => page.locator("#cancel").click(), () => page.keyboard.press("Escape")]) {
    await release.click();
    assert.match(await dialog.innerText(), /Release this lock\?[^]*deploy of web1[^]*not told[^]*1 request waits/);
    await cancel();
    await gone(dialog);
    assert.equal((await server.locks("deploy"))[0].title, "deploy of web1");
  }
  await release.click();
  await page.locator("#confirm").click();
  assert.equal(await next.answer, 201);
  await gone(dialog);
  await shown(row(page, "deploy of web2"));
  await shown(page.locator("#note", { hasText: "Released" }));
});

onPage("what is gone already is no error", async (page, server) => {
  const path = await server.hold("race", "both at once");
  await row(page, "both at once").locator(".release").click();
  await fetch(server.url + path, { method: "DELETE" });
  await page.locator("#confirm").click();
  await shown(page.locator("#note", { hasText: "gone already" }));
  await panelSays(page, "No locks");
});

onPage("all locks of a resource are deleted after a question", async (page, server) => {
  const shared = { mode: "shared" };
  await server.hold("report", "reader 1", shared);
  await server.hold("report", "reader 2", shared);
  await server.hold("other", "bystander");
  const waiter = await server.wait("report", "a writer");
  await shown(row(page, "reader 2"));
  // The page may see who waits a moment after those who hold it.
  await shown(row(page, "reader 1").locator(".all", { hasText: "Delete all 3" }));
  assert.equal(await page.locator(".all:visible").count(), 1, "where it is not the same as Release");
  await row(page, "reader 1").locator(".all").click();
  assert.match(await page.locator("#dialog").innerText(), /3 locks and requests of report\?[^]*reader 1[^]*reader 2[^]*2 holders lose[^]*1 waiting request gets 409/);
  await page.locator("#cancel").click();
  assert.equal((await server.locks("report")).length, 3);
  await row(page, "reader 1").locator(".all").click();
  await page.locator("#confirm").click();
  assert.equal(await waiter.answer, 409);
  await gone(row(page, "reader 1"));
  assert.equal(await page.locator("#rows tr").count(), 1);
});

onPage("a semaphore shows how many hold it", async (page, server) => {
  await server.hold("pool", "one", { limit: 3 });
  await server.hold("pool", "two", { limit: 3 });
  await shown(row(page, "two"));
  assert.deepEqual(await page.locator(".mode b").allInnerTexts(), ["2 / 3", "2 / 3"]);
});

onPage("a holder that waits for another mode says so, and no more when it does not", async (page, server) => {
  const shared = { mode: "PR" };
  const first = await server.hold("report", `reader 1 ${"x".repeat(300)}`, shared);
  const second = await server.hold("report", "reader 2", shared);
  await server.hold("other", "bystander");
  await shown(row(page, "reader 2"));
  assert.equal(await page.locator(".wish:visible").count(), 0);
  const { answer } = await server.convert(first, "EX");
  for (const width of [1600, 1100, 375]) {
    await page.setViewportSize({ width, height: 800 });
    await shown(row(page, "reader 1").locator(".wish", { hasText: "waits for EX" }));
    const box = await row(page, "reader 1").locator(".wish").boundingBox();
    assert.ok(box.x + box.width <= width && box.width > 50, `beside a long title: ${JSON.stringify(box)} of ${width}`);
  }
  await page.setViewportSize({ width: 1100, height: 800 });
  assert.equal(await page.getByRole("cell", { name: /^reader 1 x+ waits for EX$/ }).count(), 1);
  assert.equal(await page.locator(".wish:visible").count(), 1);
  assert.equal(await page.locator("#count-waiting").innerText(), "1");
  await page.locator("#filter").selectOption("waiting");
  await gone(row(page, "bystander"));
  await row(page, "reader 1").locator(".open").click();
  await shown(page.locator("#held li", { hasText: /reader 1.*PR, held for .*, waits for EX/ }));
  await shown(page.locator("#past li", { hasText: "waits for another mode" }));
  await page.keyboard.press("Escape");
  const questions = [["reader 2", /not told.*1 other holder waits for another mode/], ["reader 1", /told at once.*Nobody waits/]];
  for (const [holder, outcome] of questions) {
    await row(page, holder).locator(".release").click();
    assert.match(await page.locator("#outcome").innerText(), outcome);
    await page.locator("#cancel").click();
  }
  await fetch(server.url + second, { method: "DELETE" });
  assert.equal(await answer, 200);
  await page.locator("#filter").selectOption("");
  await until("it is held in the other mode", async () => (await page.locator(".mode b").allInnerTexts()).every((mode) => mode === "EX"));
  assert.equal(await page.locator(".wish:visible").count(), 0);
});

onPage("a lock without an end has none", async (page, server) => {
  const body = JSON.stringify({ ID: "a-run", Who: "me@host", Operation: "apply" });
  const response = await fetch(`${server.url}/locks/infra`, { method: "LOCK", body });
  assert.equal(response.status, 200);
  await shown(row(page, "me@host: apply"));
  assert.equal(await row(page, "infra").locator(".left").innerText(), "\u2013");
  await page.locator("#sort").selectOption("ends");
  await row(page, "infra").locator(".open").click();
  await shown(page.locator("#held", { hasText: "me@host: apply" }));
});

onPage("titles are text, whatever they say", async (page, server) => {
  const titles = [
    "<img src=x onerror=\"window.pwned=1;alert(1)\">",
    "</script><script>window.pwned=2</script>",
    "</template></table><svg onload=window.pwned=3>",
    "\"'><iframe srcdoc='<script>parent.pwned=4</script>'>",
    "javascript:window.pwned=5",
    "{{constructor.constructor('window.pwned=6')()}}",
    "\u202egnp.exe \u0000\u0007\u001b[31m\u2066 controls",
    "\u{1f469}\u200d\u{1f680} \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 z\u0351\u0346\u0352",
    "long " + "x".repeat(1000),
    "__proto__",
    "",
  ];
  for (const [n, title] of titles.entries()) await server.hold(`hostile-${n}`, title);
  await server.wait("hostile-0", titles[1]);
  await shown(row(page, `hostile-${titles.length - 1}`));
  const seen = await page.locator("#rows tr.lock bdi").allTextContents();
  assert.equal(seen.length, titles.length);
  titles.forEach((title, n) => {
    if (n !== 6) assert.ok(seen.includes(title), title);
  });
  const controls = seen.find((title) => title.includes("controls"));
  assert.equal(controls, "\u27e8U+202E\u27e9gnp.exe \u2400\u2407\u241b[31m\u27e8U+2066\u27e9 controls");

  await page.locator(".line button", { hasText: "1 waiting" }).click();
  for (const n of [0, 1, 8]) {
    await row(page, `hostile-${n}`).first().locator(n === 0 ? ".all" : ".release").click();
    assert.ok((await page.locator("#facts").innerText()).includes(titles[n].slice(0, 40)));
    await page.locator("#cancel").click();
    await row(page, `hostile-${n}`).first().locator(".open").click();
    await shown(page.locator("#past", { hasText: "was granted the lock" }));
    assert.ok((await page.locator("#held").innerText()).includes(titles[n].slice(0, 40)));
    await page.locator("#close").click();
  }
  await page.locator("#search").fill("<script>");
  await until("found", async () => await page.locator("#rows tr").count() > 0);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  assert.equal(await page.locator("#rows img, #rows svg, #rows iframe, #rows script").count(), 0);
  for (const width of [1600, 1001, 1000, 600, 320]) {
    await page.setViewportSize({ width, height: 800 });
    const needed = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(needed <= width, `a long title makes nothing wider: ${needed} of ${width}`);
    const outside = await page.locator("#rows button:visible").evaluateAll(
      (buttons, width) => buttons.filter((b) => b.getBoundingClientRect().right > width).length, width);
    assert.equal(outside, 0, `all buttons are to be seen at ${width}`);
  }
});

test("a script that got into the page would not run", async (t) => {
  const server = await Server.start();
  t.after(() => server.stop());
  const page = await openPage(browser, server.url);
  t.after(() => page.context().close());
  const refused = await page.evaluate(() => {
    try {
      document.body.innerHTML += "<img src=x onerror='window.pwned=1'>";
      return "";
    } catch (error) {
      return error.name;
    }
  });
  assert.equal(refused, "TypeError", "there is no markup from text");
  await page.evaluate(() => {
    const image = document.createElement("img");
    image.setAttribute("src", "http://127.0.0.1:9/x");
    document.body.append(image);
    const form = document.createElement("form");
    form.action = "http://127.0.0.1:9/";
    document.body.append(form);
    form.submit();
  });
  await until("the policy stops both", () => page.evaluate(() => window.violations.length >= 2));
  assert.equal(await page.evaluate(() => window.pwned), undefined);
});

test("a server that is gone is told, and found again", { timeout: 180_000 }, async (t) => {
  let server = await Server.start();
  t.after(() => server.stop());
  const page = await openPage(browser, server.url);
  t.after(() => page.context().close());
  await server.hold("before", "from before");
  await shown(row(page, "from before"));
  await server.stop();
  await shown(page.locator("#banner", { hasText: "The server does not answer" }));
  await until("since when", async () => /from .*\d+ s ago/.test(await page.locator("#since").innerText()));
  assert.equal(await row(page, "from before").locator(".release").isDisabled(), true);
  assert.match(await page.title(), /no answer/);
  const port = server.port;
  server = await Server.start([], port);
  await server.hold("after", "from after");
  await shown(row(page, "from after"));
  await gone(page.locator("#banner"));
  await gone(row(page, "from before"));
  assert.equal(await row(page, "from after").locator(".release").isEnabled(), true);

  // One that hangs is gone as well.
  server.child.kill("SIGSTOP");
  await shown(page.locator("#banner", { hasText: "The server does not answer" }));
  server.child.kill("SIGCONT");
  await gone(page.locator("#banner"));
  assert.deepEqual(page.complaints, []);
});

async function userFile(t) {
  const dir = await mkdtemp(join(tmpdir(), "rdlm-page-"));
  t.after(() => rm(dir, { recursive: true }));
  const file = join(dir, "users");
  await writeFile(file, "alice:w\u00f6nder:land\n");
  return file;
}

/** The browser's dialog for a password is not to be seen here, but it is there. */
async function cancelDialogs(page) {
  const session = await page.context().newCDPSession(page);
  session.on("Fetch.requestPaused", ({ requestId }) => session.send("Fetch.continueRequest", { requestId }));
  session.on("Fetch.authRequired", ({ requestId }) =>
    session.send("Fetch.continueWithAuth", { requestId, authChallengeResponse: { response: "CancelAuth" } }));
  await session.send("Fetch.enable", { handleAuthRequests: true });
}

for (const by of ["the browser", "the address", "the form"]) {
  test(`administrators sign in by ${by}`, { timeout: 180_000 }, async (t) => {
    const server = await Server.start(["--admin-userpass-file", await userFile(t)]);
    t.after(() => server.stop());
    await server.hold("guarded", "behind a password");
    const known = by !== "the form";
    const httpCredentials = { username: "alice", password: "w\u00f6nder:land" };
    const url = by === "the address" ? server.url.replace("//", "//alice:w%C3%B6nder:land@") : server.url;
    const page = await openPage(browser, url, by === "the browser" ? { httpCredentials } : {});
    t.after(() => page.context().close());
    if (!known) {
      await panelSays(page, "Your browser asks");
      assert.equal(await page.locator("#sign-in").isVisible(), false);
      await cancelDialogs(page);
      await page.reload();
      await shown(page.locator("#sign-in"));
      assert.equal(await page.locator("#rows tr").count(), 0);
      const signIn = async (password) => {
        await page.locator("#user").fill("alice");
        await page.locator("#password").fill(password);
        await page.keyboard.press("Enter");
      };
      await signIn("wrong");
      await panelSays(page, "not accepted");
      await signIn("w\u00f6nder:land");
    }
    await shown(row(page, "behind a password"));
    assert.equal(await page.locator("#sign-in").isVisible(), false);
    await row(page, "guarded").locator(".release").click();
    await page.locator("#confirm").click();
    await panelSays(page, "No locks");
    await server.hold("again", "live with a password");
    await shown(row(page, "live with a password"));
    if (!known) {
      // An answer that is under way must not show everything again.
      await page.route(/\/status/, async (route) => {
        await new Promise((resolve) => setTimeout(resolve, 700));
        await route.continue();
      });
      const asked = page.waitForRequest(/\/status/);
      await server.hold("more", "a reason to ask");
      await asked;
      await page.locator("#sign-out").click();
      await page.waitForTimeout(1500);
      await panelSays(page, "Sign in");
      assert.equal(await page.locator("#rows tr").count(), 0, "nothing is left to be read");
    }
    assert.deepEqual(page.complaints, []);
  });
}

// The tokens are "w" and "o".
const USERS = `
[user.watch]
token = "sha256:50e721e49c013f00c62cf59f2163542a9d8df02464efeb615d31051b0fddc326"
may = ["see nightly*"]
[user.ops]
token = "sha256:65c74c15a686187bb6bbf9958f494fc6b80068034a659a9ad44991b08c58f2d2"
may = ["admin *"]
[anonymous]
may = ["lock *"]
`;

async function secured(t, ...options) {
  const dir = await mkdtemp(join(tmpdir(), "rdlm-page-"));
  t.after(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, "users.toml"), USERS);
  return { dir, options: ["--users", join(dir, "users.toml"), ...options.map((option) => option.replace("DIR", dir))] };
}

test("a user with a token sees what it may, and releases what it may", { timeout: 180_000 }, async (t) => {
  const { options } = await secured(t);
  const server = await Server.start(options);
  t.after(() => server.stop());
  await server.hold("nightly", "seen");
  await server.hold("payroll", "for some alone");
  const page = await openPage(browser, server.url);
  t.after(() => page.context().close());
  await cancelDialogs(page);
  await page.reload();
  const signIn = async (token) => {
    await shown(page.locator("#sign-in"));
    await page.locator("#password").fill(token);
    await page.keyboard.press("Enter");
  };
  await signIn("wrong");
  await panelSays(page, "This token is not accepted");
  await signIn("w");
  await shown(row(page, "seen"));
  assert.equal(await page.locator("#rows tr").count(), 1);
  assert.equal(await page.locator("#rows button.release:visible").count(), 0, "it may not release it");
  await page.locator("#sign-out").click();
  await signIn("o");
  await shown(row(page, "for some alone"));
  await row(page, "for some alone").locator(".release").click();
  await page.locator("#confirm").click();
  await gone(row(page, "for some alone"));
  // What happens is heard with the token, too.
  await server.hold("later", "live with a token");
  await shown(row(page, "live with a token"));
  assert.deepEqual(page.complaints, []);
});

test("a certificate that the browser knows is enough", { timeout: 180_000 }, async (t) => {
  const tls = ["--tls-cert", "DIR/own.crt", "--tls-key", "DIR/own.key", "--tls-client-ca", "DIR/ca.crt"];
  const { dir, options } = await secured(t, ...tls);
  const openssl = (name, subject, ...more) => promisify(execFile)("openssl", ["req", "-x509", "-newkey", "ec",
    "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", `/CN=${subject}`,
    "-keyout", join(dir, `${name}.key`), "-out", join(dir, `${name}.crt`), ...more]);
  await openssl("own", "localhost", "-addext", "subjectAltName=IP:127.0.0.1");
  await openssl("ca", "an authority");
  await openssl("ops", "ops", "-addext", "basicConstraints=critical,CA:FALSE",
    "-CA", join(dir, "ca.crt"), "-CAkey", join(dir, "ca.key"));
  const server = await Server.start(options);
  t.after(() => server.stop());
  const url = server.url.replace("http:", "https:");
  const certificate = { origin: url, certPath: join(dir, "ops.crt"), keyPath: join(dir, "ops.key") };
  const page = await openPage(browser, url, { ignoreHTTPSErrors: true, clientCertificates: [certificate] });
  t.after(() => page.context().close());
  await panelSays(page, "No locks");
  const body = JSON.stringify({ title: "by certificate", wait: 0, lifetime: 600 });
  await page.evaluate((body) => fetch("locks/secure", { method: "POST", body }), body);
  await shown(row(page, "by certificate"));
  assert.match(await row(page, "by certificate").innerText(), /ops at 127\.0\.0\.1/);
  assert.equal(await page.locator("#sign-in").isVisible(), false);
  await row(page, "by certificate").locator(".release").click();
  await page.locator("#confirm").click();
  await panelSays(page, "No locks");
  assert.deepEqual(page.complaints, []);
});

onPage("administration that is switched off is told", async (page) => {
  await panelSays(page, "administrative requests are switched off");
  assert.equal(await page.locator("#table").isVisible(), false);
}, { options: ["--admin-userpass-file", "no"] });

test("behind a proxy with a path prefix everything works", async (t) => {
  const server = await Server.start();
  t.after(() => server.stop());
  const proxy = await startProxy("/tools/rdlm/", server.port);
  t.after(() => proxy.stop());
  await server.hold("inside", "behind a proxy");
  const page = await openPage(browser, proxy.url);
  t.after(() => page.context().close());
  await row(page, "behind a proxy").locator(".release").click();
  await page.locator("#confirm").click();
  await panelSays(page, "No locks");
  assert.ok((await page.locator("#panel-command").textContent()).includes("/tools/rdlm/locks/demo"));
});

onPage("a hidden page asks for nothing", async (page, server, t) => {
  await panelSays(page, "No locks");
  let asked = 0;
  page.on("request", () => { asked += 1; });
  const setVisibility = (state) => page.evaluate((state) => {
    Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, state);
  await setVisibility("hidden");
  await page.waitForTimeout(200);
  asked = 0;
  await page.waitForTimeout(2500);
  assert.equal(asked, 0);
  await setVisibility("visible");
  await until("it goes on", () => asked >= 2);
});

onPage("on a phone nothing is wider than the screen", async (page, server) => {
  await server.hold("a-resource-with-quite-a-long-name.of-a-team:eu-west-1", "x".repeat(300));
  await server.wait("a-resource-with-quite-a-long-name.of-a-team:eu-west-1", "y".repeat(300));
  await page.locator(".line button:visible").click();
  await shown(page.locator("tr.waiter"));
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
  for (const button of await page.locator("#rows button:visible").all()) {
    const box = await button.boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 390, JSON.stringify(box));
  }
  await page.locator("tr.waiter .release").click();
  await page.locator("#confirm").click();
  await gone(page.locator("tr.waiter"));
}, { context: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true } });

// With LOCKS=1000000 it takes some minutes.
const LOCKS = Number(process.env.LOCKS ?? 5000);
test(`${LOCKS} locks stay smooth`, { timeout: 300_000 + LOCKS * 5 }, async (t) => {
  const server = await Server.start(["--max-locks", String(LOCKS + 1)]);
  t.after(() => server.stop());
  const name = (n) => `job-${String(n).padStart(7, "0")}`;
  const paths = [];
  for (let from = 0; from < LOCKS; from += 50) {
    const some = Array.from({ length: 50 }, (_, n) =>
      server.hold(name(from + n), `worker ${from + n} of the batch`, { lifetime: 100_000 }));
    paths.push(...await Promise.all(some));
  }
  const begin = Date.now();
  const page = await openPage(browser, server.url);
  t.after(() => page.context().close());
  await shown(row(page, "worker 0 of"));
  t.diagnostic(`first rows: ${Date.now() - begin} ms after the navigation began`);

  assert.equal(await page.locator("#count-held").innerText(), LOCKS.toLocaleString("en-US"));
  const bytes = (await (await fetch(`${server.url}/status?limit=200`)).arrayBuffer()).byteLength;
  t.diagnostic(`a page of /status: ${Math.round(bytes / 1000)} kB`);
  const scrolling = await page.evaluate(scrollThrough);
  t.diagnostic(`scrolling: median frame ${scrolling.median.toFixed(1)} ms, worst ${scrolling.worst.toFixed(1)} ms, ` +
    `at most ${scrolling.most} rows drawn`);
  assert.ok(scrolling.most < 100, JSON.stringify(scrolling));
  assert.ok(scrolling.median < 100, JSON.stringify(scrolling));
  await shown(row(page, "worker 199 of"));

  await page.locator("#next").click();
  await shown(row(page, "worker 200 of"));
  const update = Date.now();
  await fetch(server.url + paths[200], { method: "DELETE" });
  await gone(row(page, "worker 200 of"), 15_000);
  t.diagnostic(`an update is seen after ${Date.now() - update} ms`);
  const search = async (text, found) => {
    const begun = Date.now();
    await page.locator("#search").fill(text);
    await shown(found, 60_000);
    t.diagnostic(`the search for "${text}" takes ${Date.now() - begun} ms`);
  };
  await search("worker 1234 of", row(page, "worker 1234 of"));
  assert.equal(await page.locator("#rows tr").count(), 1);
  await search(`worker ${LOCKS - 1} of`, row(page, `worker ${LOCKS - 1} of`));
  await search("not there", page.locator("#panel", { hasText: "Nothing found" }));
  const heap = await page.evaluate(() => performance.memory.usedJSHeapSize);
  t.diagnostic(`memory of the page: ${(heap / 1e6).toFixed(1)} MB`);
  const longTasks = await page.evaluate(() => window.longTasks);
  t.diagnostic(`tasks over 50 ms: ${JSON.stringify(longTasks)}`);
  assert.ok(Math.max(0, ...longTasks) < 500, JSON.stringify(longTasks));
  assert.deepEqual(page.complaints, []);
});

/** In the page: scrolls to its end, and tells how that went. */
async function scrollThrough() {
  const frame = () => new Promise(requestAnimationFrame);
  const gaps = [];
  let most = 0;
  let last = await frame();
  for (let n = 0; n <= 120; n += 1) {
    scrollTo(0, (document.documentElement.scrollHeight - innerHeight) * n / 120);
    const now = await frame();
    gaps.push(now - last);
    last = now;
    most = Math.max(most, document.querySelectorAll("#rows tr").length);
  }
  gaps.sort((a, b) => a - b);
  return { median: gaps[60], worst: gaps.at(-1), most };
}

onPage("long lists have pages, and the address says which", async (page, server) => {
  const names = Array.from({ length: 205 }, (_, n) => `r${String(n).padStart(3, "0")}`);
  for (let from = 0; from < names.length; from += 41) await Promise.all(names.slice(from, from + 41).map((name) => server.hold(name)));
  await shown(page.locator("#pager", { hasText: "200 resources, r000 to r199" }));
  await page.locator("#next").click();
  await shown(page.locator("#pager", { hasText: "5 resources, r200 to r204" }));
  assert.equal(await page.locator("#next").isDisabled(), true);
  await page.reload();
  await shown(page.locator("#pager", { hasText: "5 resources, r200 to r204" }));
  await page.locator("#first").click();
  await shown(page.locator("#pager", { hasText: "r000 to r199" }));
});

onPage("search, filter and sort are done by the server and stand in the address", async (page, server) => {
  await server.hold("alpha", "first", { lifetime: 500 });
  await server.hold("beta", "second", { lifetime: 100 });
  await server.hold("gamma", "third", { lifetime: 300 });
  await server.wait("gamma", "patient");
  await shown(row(page, "third"));
  const order = () => page.locator("#rows tr.lock .open").allInnerTexts();
  const settles = (expected) => until(`${expected}`, async () => String(await order()) === String(expected));
  await page.locator("#sort").selectOption("ends");
  await settles(["beta", "gamma", "alpha"]);
  await page.locator("#sort").selectOption("line");
  await settles(["gamma", "alpha", "beta"]);
  await page.locator("#filter").selectOption("waiting");
  await settles(["gamma"]);
  assert.match(page.url(), /\?sort=line&state=waiting$/);
  await page.locator("#filter").selectOption("");
  await page.locator("#search").fill("first");
  await settles(["alpha"]);
  await page.reload();
  await settles(["alpha"]);
  assert.equal(await page.locator("#search").inputValue(), "first");
  assert.equal(await page.locator("#sort").inputValue(), "line");
});

onPage("the longest line of all comes first, whatever its name", async (page, server) => {
  for (let n = 0; n < 250; n += 1) await server.hold(`r${String(n).padStart(3, "0")}`, "a job");
  await server.wait("r247", "patient");
  await shown(page.locator("#pager", { hasText: "r000 to r199" }));
  await page.locator("#sort").selectOption("line");
  await until("it is first", async () => (await page.locator("#rows tr.lock .open").first().innerText()) === "r247");
  await page.locator("#next").click();
  await shown(page.locator("#pager", { hasText: "50 resources" }));
  await shown(row(page, "r199"));
});

onPage("what happens while an answer is under way is seen behind it", async (page, server) => {
  await panelSays(page, "No locks");
  let late = true;
  await page.route(/\/status/, async (route) => {
    const response = await route.fetch();
    if (late) {
      late = false;
      await server.hold("two", "meanwhile");
      await page.waitForTimeout(1000);
    }
    await route.fulfill({ response });
  });
  await server.hold("one", "at first");
  await shown(row(page, "at first"));
  await shown(row(page, "meanwhile"));
});

onPage("a long search says that it goes on, and another one does not wait for its end", async (page, server) => {
  await server.hold("alpha", "first");
  await shown(row(page, "first"));
  let answer;
  await page.route(/search=needle/, (route) => new Promise((resolve) => {
    answer = () => route.continue().then(resolve);
  }));
  const search = page.locator("#search");
  await search.fill("needle");
  await until("it is asked", () => answer !== undefined);
  await panelSays(page, "Searching…");
  await answer();
  await panelSays(page, "Nothing found");
  await page.route(/search=haystack/, () => {});
  const abandoned = page.waitForEvent("requestfailed", (request) => request.url().includes("haystack"));
  const asked = page.waitForRequest(/search=haystack/);
  await search.fill("haystack");
  await asked;
  await search.fill("alpha");
  await shown(row(page, "first"));
  await abandoned;
  await search.fill("nothing like it");
  await panelSays(page, "Nothing found");
  assert.equal(await page.locator("#pulse").innerText(), "live");
});

onPage("a change is seen at once, without a question each second", async (page, server) => {
  await panelSays(page, "No locks");
  await page.waitForTimeout(1000);
  const asked = [];
  page.on("request", (request) => asked.push(new URL(request.url()).pathname));
  await page.waitForTimeout(3500);
  assert.deepEqual(asked.filter((path) => path === "/status"), [], "nothing has happened");
  const begin = Date.now();
  await server.hold("now", "at once");
  await shown(row(page, "at once"));
  assert.ok(Date.now() - begin < 2000, `after ${Date.now() - begin} ms`);
  assert.equal(await page.locator("#pulse").innerText(), "live");
});

onPage("without room for a subscriber it asks each second", async (page, server) => {
  await server.hold("now", "a second later");
  await shown(row(page, "a second later"));
}, { options: ["--max-subscribers", "0"] });

onPage("a resource opens to its holders, its line and its past", async (page, server) => {
  const path = await server.hold("nightly", "the one before");
  await server.wait("nightly", "the next");
  await fetch(server.url + path, { method: "DELETE" });
  await server.wait("nightly", "after that");
  await row(page, "nightly").first().locator(".open").click();
  const detail = page.locator("#detail");
  await shown(detail.locator("#past", { hasText: "released it" }));
  await shown(detail.locator("#held", { hasText: /the next.*127\.0\.0\.1, EX, held for \d+ s/ }));
  await shown(detail.locator("#line", { hasText: /after that.*waits for/ }));
  const past = await detail.locator("#past li").allInnerTexts();
  assert.match(past[0], /after that waits/);
  assert.ok(past.some((text) => /the one before released it, .*, 127\.0\.0\.1, held \d+ s/.test(text)), past.join("\n"));
  assert.ok(past.some((text) => /the next was granted the lock, .*after waiting \d+ s/.test(text)), past.join("\n"));
  for (const [button, text] of [["#copy-name", "nightly"], ["#copy-url", `${server.url}/locks/nightly`],
    ["#copy-curl", `curl ${server.url}/locks/nightly -d '{"title":"me","wait":60,"lifetime":60}'`]]) {
    await detail.locator(button).click();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), text);
  }
  await fetch(`${server.url}/resources/nightly`, { method: "DELETE" });
  await shown(detail.locator("#held", { hasText: "Nobody" }));
  await shown(detail.locator("#past", { hasText: "was deleted" }));
  await page.keyboard.press("Escape");
  await gone(detail);
}, { context: { permissions: ["clipboard-read", "clipboard-write"] } });

onPage("a name that does not fit is cut in its middle", async (page, server) => {
  await server.hold("nightly-backup-1", "x".repeat(200));
  const long = "svc00:prod-eu-west-1:shard-0017:replica-of-the-primary";
  await server.hold(long, "x".repeat(200));
  await shown(row(page, "shard-0017"));
  const open = (name) => page.locator(".open", { hasText: name });
  const ends = (name) => open(name).evaluate((button) => {
    const [head, tail] = [".head", ".tail"].map((part) => button.querySelector(part));
    const cell = button.closest("td").getBoundingClientRect();
    return { cut: head.scrollWidth > head.clientWidth, tail: tail.getBoundingClientRect().right <= cell.right + 1 };
  });
  for (const width of [1100, 1600]) {
    await page.setViewportSize({ width, height: 800 });
    assert.deepEqual(await ends("nightly-backup-1"), { cut: false, tail: true }, `${width}`);
    assert.equal((await ends("shard-0017")).tail, true, `its end is to be seen at ${width}`);
  }
  assert.equal(await open("shard-0017").textContent(), long);
  assert.equal(await open("shard-0017").getAttribute("title"), long);
});

/** Shows locks with these titles as if their lifetimes were so long, and nearly over. */
function nearTheirEnd(page, lifetimes) {
  return page.route(/\/status/, async (route) => {
    const response = await route.fetch();
    const json = await response.json();
    for (const lock of json.resources.flatMap(({ locks }) => locks)) lock.lifetime = lifetimes[lock.title] ?? lock.lifetime;
    await route.fulfill({ response, json });
  });
}

for (const colorScheme of ["light", "dark"]) {
  for (const width of [375, 1100]) {
    onPage(`axe finds nothing: ${colorScheme}, ${width} pixels`, async (page, server) => {
      await panelSays(page, "No locks");
      const check = async (what) => {
        await page.evaluate(axe.source);
        const { violations } = await page.evaluate(() => window.axe.run());
        assert.deepEqual(violations.map(({ id, nodes }) => `${what}: ${id} ${nodes.map((n) => n.html).join(" ")}`), []);
      };
      await check("empty");
      await server.hold("busy", "a holder");
      await nearTheirEnd(page, { "low on time": 6000, "almost over": 60_000 });
      await server.hold("short", "low on time");
      await server.hold("shorter", "almost over");
      await server.wait("busy", "one that waits");
      await server.hold("pool", "of three", { limit: 3 });
      const reader = await server.hold("report", "a reader", { mode: "PR" });
      await server.hold("report", "another", { mode: "PR" });
      await server.convert(reader, "EX");
      await shown(page.locator(".wish:visible"));
      await shown(page.locator("tr.low"));
      await shown(page.locator("tr.out"));
      await page.locator(".line button:visible").click();
      await check("list");
      await row(page, "a holder").locator(".all").click();
      await check("question");
      await page.locator("#cancel").click();
      await row(page, "a holder").locator(".open").click();
      await shown(page.locator("#past", { hasText: "was granted" }));
      await check("detail");
    }, { context: { colorScheme, viewport: { width, height: 900 }, bypassCSP: true } });
  }
}
