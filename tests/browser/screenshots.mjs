// The pictures in docs/: the page as it is, showing locks that are made up.

import { join } from "node:path";

import { openBrowser, openPage, Server, until } from "./harness.mjs";

const dir = process.argv[2];
const now = Date.parse("2026-11-23T04:43:38Z");
const time = (seconds) => new Date(now + seconds * 1000).toISOString().replace("Z", "000Z");
let uids = 0;

function held(title, client, age, lifetime, left, more = {}) {
  uids += 1;
  return {
    uid: uids.toString(16).padStart(32, "0"), title, client, lifetime, wait: 0, mode: "EX", limit: 1,
    active: true, active_since: time(-age), active_expires: time(left), fencing_token: now + uids, ...more,
  };
}

function waiting(position, title, client, age, left, more = {}) {
  uids += 1;
  return {
    uid: uids.toString(16).padStart(32, "0"), title, client, lifetime: 300, wait: age + left, mode: "EX", limit: 1,
    active: false, wait_since: time(-age), wait_expires: time(left), position, ...more,
  };
}

const shared = { mode: "PR", limit: undefined };
const three = { limit: 3 };
const resources = [
  { name: "backup:db1", locks: [held("nightly backup of db1", "10.20.0.11", 1384, 3600, 2216)] },
  { name: "cron.certificates", locks: [held("certbot renew on lb2", "10.20.0.42", 8, 60, 52)] },
  { name: "deploy", locks: [
    held("deploy of web1, release 4.12", "10.20.3.7", 412, 900, 488, three),
    held("deploy of web2, release 4.12", "10.20.3.7", 250, 900, 650, three),
    held("deploy of api1, release 4.12", "10.20.3.9", 31, 900, 869, three),
    waiting(1, "deploy of api2, release 4.12", "10.20.3.9", 29, 571, three),
    waiting(2, "deploy of batch1, release 4.12", "10.20.3.12", 14, 586, three),
  ] },
  { name: "invoices.2026-11", locks: [held("invoice run, worker 3", "10.20.7.31", 3311, 3600, 289)] },
  { name: "mailbox-sync", locks: [held("sync of team mailboxes", "10.20.1.5", 6, 10, 4)] },
  { name: "migrations", locks: [
    held("alembic upgrade head (billing)", "10.20.3.9", 192, 600, 408),
    waiting(1, "alembic upgrade head (orders)", "10.20.3.9", 171, 129),
    waiting(2, "alembic upgrade head (search)", "10.20.3.12", 96, 204),
    waiting(3, "schema check by hand, Dana", "10.20.9.80", 22, 38),
    waiting(4, "alembic upgrade head (users)", "10.20.3.9", 5, 295),
  ] },
  { name: "report.daily", locks: [
    held("reader: dashboards", "10.20.4.4", 75, 300, 225, shared),
    held("reader: mail of the morning", "10.20.4.19", 12, 300, 288, shared),
    waiting(1, "writer: nightly aggregates", "10.20.4.2", 9, 111),
  ] },
  { name: "search-index", locks: [held("reindex after 4.12", "10.20.6.2", 97412, 172800, 75388)] },
  { name: "snapshots@eu-west", locks: [held("prune snapshots over 30 days", "10.20.0.11", 540, 600, 60)] },
];

async function shoot(browser, server, name, colorScheme, line) {
  const viewport = { width: 1200, height: line ? 600 : 660 };
  const page = await openPage(browser, server.url, { viewport, colorScheme, reducedMotion: "reduce" });
  const count = (active) => resources.flatMap(({ locks }) => locks).filter((lock) => lock.active === active).length;
  const totals = { resources: resources.length, active: count(true), waiting: count(false) };
  const body = JSON.stringify({ resources, now: time(0), totals });
  await page.route(/\/status/, (route) => route.fulfill({ contentType: "application/json", body }));
  await page.evaluate(() => poll());
  await until("the locks are drawn", async () => await page.locator("#rows tr").count() >= 12);
  await page.evaluate(() => { document.getElementById("host").textContent = "locks.example.com"; });
  if (line) {
    await page.locator("#search").fill(line);
    await page.locator(".line button:visible").click();
    await page.locator("#search").fill("");
    await page.evaluate(() => document.activeElement.blur());
  }
  await page.mouse.move(0, 0);
  await page.screenshot({ path: join(dir, name) });
  await page.context().close();
}

const server = await Server.start();
const browser = await openBrowser();
try {
  await shoot(browser, server, "status-light.png", "light");
  await shoot(browser, server, "status-dark.png", "dark");
  await shoot(browser, server, "status-line.png", "light", "migrations");
} finally {
  await browser.close();
  await server.stop();
}
