// What the page costs and how soon it is there, in a real Chromium. Figures, not tests: they depend on the machine.
//
//   node test/measure.mjs OBSERVER SCRATCH CHROMIUM
import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { chromium } from "playwright-core";
import { write } from "./recording.mjs";

const [observer, scratch, executablePath] = process.argv.slice(2);
const [LOADS, SCROLL_SECONDS, PAGES, WATCH_SECONDS] = [9, 5, 50, 20];
mkdirSync(scratch, { recursive: true });

const port = () => new Promise((resolve, reject) => {
  const server = createServer();
  server.once("error", reject);
  server.listen(0, "127.0.0.1", () => { const { port } = server.address(); server.close(() => resolve(port)); });
});
const sleep = seconds => new Promise(resolve => setTimeout(resolve, seconds * 1000));
const sorted = list => [...list].sort((a, b) => a - b);
const part = (list, share) => sorted(list)[Math.min(list.length - 1, Math.floor(list.length * share))];

/** Writes a recording and serves it. */
async function serve(name, shape, ...options) {
  const file = `${scratch}/${name}.jsonl`;
  await write(file, shape);
  const at = await port();
  const child = spawn(observer, ["replay", file, "--serve", `127.0.0.1:${at}`, ...options], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  await new Promise((resolve, reject) => {
    child.stderr.on("data", data => { log += data; if (/http:\/\//.test(log)) resolve(); });
    child.once("exit", code => reject(new Error(`the observer ended with ${code}: ${log}`)));
    child.once("error", reject);
  });
  const stop = async () => { child.kill("SIGKILL"); rmSync(file, { force: true }); };
  return { url: `http://127.0.0.1:${at}/`, pid: child.pid, stop };
}

/** Seconds of a processor that it took until now; the kernel counts hundredths. */
function used(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
const resident = pid => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) / 1024;

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const fresh = async () => (await browser.newContext({ viewport: { width: 1440, height: 900 } })).newPage();

/** Seconds of a processor that a page's main thread worked until now: what remains on a machine that has other work. */
async function worked(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  return async () => (await session.send("Performance.getMetrics")).metrics.find(one => one.name === "TaskDuration").value;
}

// From the click to the first frame with data in it. Each time in a context that has nothing cached.
const day = await serve("day", { containers: 250, seconds: 86400, spread: 86000, every: 300 });
const [paints, works] = [[], []];
for (let i = 0; i <= LOADS; i++) {
  const page = await fresh();
  await page.addInitScript(() => {
    window.painted = new Promise(resolve => {
      const look = () => document.body?.dataset.ready === "yes" && document.querySelector(".rows .row") ? requestAnimationFrame(() => setTimeout(() => resolve(performance.now()))) : requestAnimationFrame(look);
      requestAnimationFrame(look);
    });
  });
  const work = await worked(page);
  await page.goto(day.url);
  const took = await page.evaluate(() => window.painted);
  if (i > 0) { // the first starts Chromium's own processes
    paints.push(took);
    works.push(await work() * 1000);
  }
  await page.context().close();
}
console.log(`first frame with data, 250 containers and 24 h of history: median ${part(paints, 0.5).toFixed(0)} ms, worst of ${LOADS} ${Math.max(...paints).toFixed(0)} ms; its main thread worked ${part(works, 0.5).toFixed(0)} ms`);
console.log(`the observer holds ${resident(day.pid).toFixed(1)} MiB then`);
await day.stop();

// Frames while the list of 1,000 workloads scrolls, by the compositor's own clock.
const many = await serve("many", { containers: 1000, seconds: 200, spread: 60, every: 30 });
{
  const page = await fresh();
  await page.goto(many.url);
  await page.waitForSelector("body[data-ready=yes]");
  await page.waitForSelector(".rows .row");
  const work = await worked(page);
  const before = await work();
  const frames = await page.evaluate(seconds => new Promise(resolve => {
    const times = [];
    let down = true;
    const step = now => {
      times.push(now);
      const end = document.documentElement.scrollHeight - innerHeight;
      if (scrollY >= end - 1) down = false;
      if (scrollY <= 1) down = true;
      scrollBy(0, down ? 120 : -120);
      if (now - times[0] < seconds * 1000) requestAnimationFrame(step); else resolve(times);
    };
    requestAnimationFrame(step);
  }), SCROLL_SECONDS);
  const each = (await work() - before) / frames.length * 1000;
  const gaps = frames.slice(1).map((time, i) => time - frames[i]);
  const rate = gaps.length / (frames.at(-1) - frames[0]) * 1000;
  const late = gaps.filter(gap => gap > 25).length;
  console.log(`scrolling 1,000 workloads: ${rate.toFixed(1)} frames a second, 99 % within ${part(gaps, 0.99).toFixed(1)} ms, ${late} of ${gaps.length} late; the main thread worked ${each.toFixed(1)} ms for each`);
  await page.context().close();
}
await many.stop();

// What readers cost the observer: it plays the same recording as fast as it was, first alone, then watched.
const busy = { containers: 250, seconds: 3 * WATCH_SECONDS + 40, spread: 5, every: 10, busy: 50 };
const watched = await serve("watched", busy, "--speed", "1");
await sleep(10);
const cost = async () => { const before = used(watched.pid); await sleep(WATCH_SECONDS); return (used(watched.pid) - before) / WATCH_SECONDS * 100; };
const alone = await cost();
// A real page says what a page asks for; so many Chromium pages would need more processors than there are here.
const page = await fresh();
const asked = [];
page.on("request", request => { if (request.url().includes("/api/")) asked.push(request.url()); });
await page.goto(watched.url);
await page.waitForSelector("body[data-ready=yes]");
await sleep(1);
await browser.close();
const once = asked.filter(url => !url.includes("/stream"));
const stream = new URL("api/v1/stream", watched.url);
async function read() {
  for (const url of once) await (await fetch(url)).arrayBuffer();
  for (let last = ""; ;) {
    const answer = await fetch(stream, { headers: last ? { "last-event-id": last } : {} });
    const decoder = new TextDecoder();
    for await (const bytes of answer.body) for (const [, id] of decoder.decode(bytes, { stream: true }).matchAll(/^id: (\d+)$/gm)) last = id;
    await sleep(0.3); // as the observer bids
  }
}
for (let i = 0; i < PAGES; i++) read().catch(() => {}); // it ends with the observer
const readers = async () => (await (await fetch(`${watched.url}api/v1/status`)).json()).streams.readers;
for (let i = 0; i < 20 && await readers() < PAGES; i++) await sleep(0.5);
const open = await readers();
const together = await cost();
console.log(`${open} readers that ask what a page asks (${once.length} answers, then the stream), 250 containers of which 50 change each second: ${(together - alone).toFixed(2)} % of a core in the observer (${together.toFixed(2)} % with them, ${alone.toFixed(2)} % without)`);
await watched.stop();
process.exit(0);
