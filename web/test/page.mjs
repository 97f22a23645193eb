// What the page draws is what the API answers: a real Chromium against recordings that are served.
//
//   node test/page.mjs OBSERVER CASES OUT CHROMIUM
//
// Prints a line for each test, "ok NAME" or "FAILED NAME: why", and keeps screenshots in OUT.
import { spawn, spawnSync } from "node:child_process";
import { createServer } from "node:net";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [observer, cases, out, executablePath] = process.argv.slice(2);
mkdirSync(out, { recursive: true });
let failed = 0;

const port = () => new Promise((resolve, reject) => {
  const server = createServer();
  server.once("error", reject);
  server.listen(0, "127.0.0.1", () => { const { port } = server.address(); server.close(() => resolve(port)); });
});

/** Serves a recording; ends with `stop`. */
async function serve(file, ...options) {
  const at = await port();
  const child = spawn(observer, ["replay", file, "--serve", `127.0.0.1:${at}`, ...options], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  await new Promise((resolve, reject) => {
    child.stderr.on("data", data => { log += data; if (/http:\/\//.test(log)) resolve(); });
    child.once("exit", code => reject(new Error(`the observer ended with ${code}: ${log}`)));
    child.once("error", reject);
  });
  const url = `http://127.0.0.1:${at}/`;
  const stop = () => new Promise(resolve => { if (child.exitCode != null || child.signalCode) return resolve(); child.once("exit", resolve); child.kill("SIGKILL"); });
  return { url, stop, api: async path => (await fetch(`${url}api/v1/${path}`)).json() };
}

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });

async function open(url, { hash = "", width = 1440, height = 900, dark = false, before, ready = true } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", timezoneId: "UTC", locale: "en-GB" });
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", error => page.problems.push(String(error.stack)));
  page.on("console", message => { if (message.type() === "error" && /Content Security|Refused to/.test(message.text())) page.problems.push(message.text()); });
  await page.addInitScript(() => {
    window.shifted = 0;
    new PerformanceObserver(list => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value; }).observe({ type: "layout-shift", buffered: true });
  });
  // A page that was built just now, without building the observer anew.
  if (process.env.PAGE) for (const file of ["page.html", "page.js", "page.css"]) await page.route(at => at.pathname === (file === "page.html" ? "/" : `/${file}`), route => route.fulfill({ path: `${process.env.PAGE}/${file}`, headers: { "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:" , "content-type": { "page.html": "text/html", "page.js": "text/javascript", "page.css": "text/css" }[file] } }));
  if (before) await before(page);
  await page.goto(url + hash);
  if (ready) await page.waitForSelector("body[data-ready=yes]");
  return page;
}

const shot = (page, name) => page.screenshot({ path: `${out}/${name}.png` });
const equal = (a, b, what) => { if (JSON.stringify(a) !== JSON.stringify(b)) throw new Error(`${what}: ${JSON.stringify(a)} is not ${JSON.stringify(b)}`); };
const truth = (is, what) => { if (!is) throw new Error(what); };

/** The state, changed on its way to the page. */
const rewrite = change => page => page.route("**/api/v1/state", async route => {
  const answer = await route.fetch();
  const state = await answer.json();
  change(state);
  await route.fulfill({ json: state });
});

async function test(name, run) {
  const pages = [];
  try {
    await run(async (...args) => { const page = await open(...args); pages.push(page); return page; });
    for (const page of pages) equal(page.problems, [], "errors in the page");
    console.log(`ok ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAILED ${name}: ${String(error.message ?? error).split("\n").slice(0, 12).join(" | ")}; ${JSON.stringify(pages.map(page => page.problems))}`);
    for (const [i, page] of pages.entries()) await shot(page, `failed-${name.replaceAll(/\W+/g, "-")}-${i}`).catch(() => {});
  } finally {
    for (const page of pages) await page.context().close().catch(() => {});
  }
}

/** As the page writes bytes; made from the words of docs, not from its code. */
function bytes(n) {
  let unit = 0;
  while (n >= 1000 && unit < 4) { n /= 1024; unit++; }
  const digits = unit === 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2;
  return `${Number(n.toFixed(digits))} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

const scaled = await serve(`${cases}/kubernetes_scale_up_while_the_api_is_silent/events.jsonl`);
const small = await serve(`${cases}/stampede_on_a_small_node/events.jsonl`);

await test("every workload is a row, the riskiest first, with its numbers", async open => {
  for (const served of [scaled, small]) {
    const page = await open(served.url);
    const workloads = (await served.api("workloads")).filter(one => one.startups || one.namespace || one.oom_kills).sort((a, b) => b.risk.score - a.risk.score);
    const rows = await page.$$eval(".rows .row.workload", all => all.map(row => row.textContent));
    equal(rows.length, workloads.length, "rows");
    workloads.forEach((one, i) => {
      for (const text of [one.workload, one.risk.level, one.risk.why, bytes(one.peak_bytes), one.advice?.limit_bytes != null ? bytes(one.advice.limit_bytes) : ""]) truth(rows[i].includes(text), `${JSON.stringify(text)} is not in ${rows[i]}`);
    });
  }
});

await test("what is drawn first is asked for once, before the script runs", async open => {
  const page = await open(scaled.url);
  const asked = await page.evaluate(() => performance.getEntriesByType("resource").filter(one => one.name.includes("/api/v1/")).map(one => [one.name.split("/api/v1/")[1], one.initiatorType]));
  for (const path of ["state", "history?from=0", "startups?from=0"]) equal(asked.filter(([name]) => name === path), [[path, "link"]], path);
});

await test("every kill and every scale event is a mark, and opens what it did", async open => {
  const page = await open(scaled.url);
  const [kills, events] = [await scaled.api("kills"), await scaled.api("scale-events")];
  const counted = async kind => (await page.$$eval(`.mark.${kind}`, all => all.map(mark => Number(mark.querySelector("b")?.textContent ?? 1)))).reduce((a, b) => a + b, 0);
  equal([await counted("kill"), await counted("scale")], [kills.length, events.length], "marks of kills and scale events");
  await shot(page, "light");
  await page.click(".mark.scale");
  const panel = await page.textContent(".panel");
  const did = events[0].outcome;
  for (const text of [events[0].workload, `${events[0].from ?? "?"} → ${events[0].to}`, events[0].by_name, bytes(did.peak_sum_bytes), bytes(did.overshoot_sum_bytes)]) truth(panel.includes(text), `${text} is not in the panel: ${panel}`);
  await shot(page, "scale-event");
});

await test("a kill says victim, whose limit, who else was starting, what to set", async open => {
  const kills = await scaled.api("kills");
  const workloads = await scaled.api("workloads");
  for (const kill of [kills[0], kills[kills.length - 1]]) {
    const page = await open(scaled.url, { hash: `#/kill/${kill.kill}` });
    const panel = await page.textContent(".panel");
    const limit = workloads.find(one => one.workload === kill.container.workload).advice.limit_bytes;
    for (const text of [kill.container.pod, kill.victim_command, String(kill.victim_pid), bytes(kill.usage_bytes), bytes(kill.limit_bytes), { container: "its own", parent: "its pod's", node: "node" }[kill.scope], bytes(limit), ...kill.also_starting.map(one => one.pod || one.container)]) truth(panel.includes(text), `${text} is not in the panel: ${panel}`);
    await shot(page, `kill-${kill.kill}`);
  }
  const inside = await open(scaled.url, { hash: `#/kill/${kills[0].kill}`, before: rewrite(state => {
    const mib = size => size * 2 ** 20;
    Object.assign(state.kills[0], { scope: "inside", limit_bytes: mib(32), usage_bytes: mib(64), victim_anon_bytes: mib(30), victim_shmem_bytes: mib(8), victim_file_bytes: mib(1) });
  }) });
  const panel = await inside.textContent(".panel");
  for (const text of ["one inside it32 MiB", "held39 MiBits group 64 MiB, ", "; it held 39 MiB (anonymous 30 MiB, shared 8 MiB, file 1 MiB), its group 64 MiB."])
    truth(panel.includes(text), `${text} is not in the panel: ${panel}`);
});

await test("a container shows the numbers of its start-up, its cause with evidence, and earlier start-ups", async open => {
  const containers = (await scaled.api("containers")).filter(one => one.time_to_stable_seconds != null);
  const one = containers[containers.length - 1];
  const detail = await scaled.api(`containers/${one.id}`);
  const page = await open(scaled.url, { hash: `#/container/${one.id}` });
  await page.waitForSelector(".panel .curve canvas");
  const panel = await page.textContent(".panel");
  for (const text of [one.pod, bytes(one.startup_peak_bytes), bytes(one.steady_bytes), `${one.overshoot.toFixed(2)} ×`, one.cause.cause.replaceAll("_", " "), ...one.cause.evidence, `${detail.earlier.length} earlier start-up`]) truth(panel.includes(text), `${text} is not in the panel: ${panel}`);
  await shot(page, "container");
});

/** The height of what is painted at a moment, in bytes, read off the pixels. */
async function painted(page, at, light) {
  return page.evaluate(([at, light]) => {
    const plot = document.querySelector(".node .plot");
    const over = plot.querySelector(".u-over").getBoundingClientRect();
    const canvas = plot.querySelector("canvas");
    const { top, from, until } = Object.fromEntries(Object.entries(plot.dataset).map(([key, value]) => [key, Number(value)]));
    const place = canvas.getBoundingClientRect();
    const x = Math.round(over.left - place.left + (at - from) / (until - from) * over.width);
    const [y, height] = [Math.round(over.top - place.top), Math.round(over.height)];
    const pixels = canvas.getContext("2d").getImageData(x, y, 1, height).data;
    let high = 0;
    for (let i = 0; i < height; i++) {
      const [r, , b] = pixels.slice(i * 4, i * 4 + 3);
      if (b - r > 90) { high = height - i; break; }
    }
    return high / height * top;
  }, [at, light]);
}

await test("the stack on the canvas is as high as what those starting held", async open => {
  const page = await open(scaled.url);
  const history = await scaled.api("history");
  const startups = await scaled.api("startups");
  let compared = 0;
  for (const [i, at] of history.at.entries()) {
    const next = history.at[i + 1];
    if (next == null || next - at !== 1) continue;
    // Each start-up's highest in this second, by the API's own curves.
    const sum = startups.reduce((all, one) => {
      const [begin, end] = [at - one.started, Math.min(at + 1, one.started + (one.seconds ?? Infinity)) - one.started];
      if (end <= 0 || begin >= (one.seconds ?? Infinity)) return all;
      const [first, last] = [Math.max(0, Math.floor(begin / one.curve.width_seconds)), Math.floor(end / one.curve.width_seconds)];
      return all + Math.max(0, ...one.curve.kib.slice(Math.min(first, one.curve.kib.length - 1), last + 1)) * 1024;
    }, 0);
    if (sum < 100 << 20) continue;
    const height = await painted(page, at + 0.5);
    const top = Number(await page.getAttribute(".node .plot", "data-top"));
    truth(Math.abs(height - sum) < top * 0.02, `at ${at}: ${bytes(height)} painted, ${bytes(sum)} held`);
    compared++;
  }
  truth(compared > 10, `only ${compared} seconds were compared`);
});

await test("a link opens what it says, keys go through the table, Esc closes", async open => {
  const page = await open(scaled.url);
  await page.keyboard.press("/");
  equal(await page.evaluate(() => document.activeElement.type), "search", "focus after /");
  await page.keyboard.type("nothing-is-called-this");
  await page.waitForSelector(".empty button");
  truth(page.url().includes("q=nothing"), page.url());
  await page.click(".empty button");
  equal(await page.$$eval(".rows .row.workload", all => all.length), 1, "rows after clearing");
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowRight");
  const alive = (await scaled.api("containers")).length;
  await page.waitForSelector(".row.container");
  truth(await page.getAttribute(".rows", "style").then(style => style.includes(`${(alive + 1) * 52}px`)), "rows of all its containers");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".panel .numbers");
  const link = page.url();
  const title = await page.textContent(".panel h2");
  const again = await open(link);
  await again.waitForSelector(".panel .numbers");
  equal(await again.textContent(".panel h2"), title, "what the link opens");
  await page.keyboard.press("Escape");
  truth(await page.isHidden(".panel"), "Esc closes");
});

await test("a recording that is played arrives by deltas, and ends as the API does", async open => {
  const played = await serve(`${cases}/scale_up_of_four/events.jsonl`, "--speed", "6");
  try {
    const page = await open(played.url, { before: page => page.addInitScript(() => { const fetched = window.fetch; window.asked = []; window.fetch = (...args) => { window.asked.push(String(args[0])); return fetched(...args); }; }) });
    let state;
    for (let i = 0; i < 60; i++) {
      state = await played.api("state");
      if (state.containers.length >= 5 && state.containers.every(one => one.state === "ended")) break;
      await page.waitForTimeout(250);
    }
    await page.waitForFunction(moment => document.querySelector(".rows .row.workload")?.textContent.includes(moment), state.workloads[0].risk.why);
    const asked = (await page.evaluate(() => window.asked)).filter(url => url.endsWith("/state"));
    equal(asked.length, 1, "times the whole state was asked for");
    const shifted = await page.evaluate(() => window.shifted);
    truth(shifted < 0.1, `the layout shifted by ${shifted}`);
    await shot(page, "played");
  } finally { await played.stop(); }
});

const hostile = ["<img src=x onerror=window.pwned=1>", "\u202egnp.exe\u202c", "a\u0000b\u001b[31mc\nd", "x".repeat(4096), "\"'><script>window.pwned=1</script>", "{{7*7}}", "__proto__"];

await test("a limit that a container will meet is marked, in the table and in the container", async open => {
  const lines = readFileSync(`${cases}/limit_ahead/events.jsonl`, "utf8").split("\n");
  const cut = `${out}/limit-ahead.jsonl`;
  writeFileSync(cut, lines.slice(0, lines.findIndex(line => line.includes('"what":{"oom_kill":'))).join("\n") + "\n");
  const served = await serve(cut);
  try {
    const [one] = (await served.api("containers")).filter(one => one.limit_ahead);
    truth(one?.limit_ahead.limit === "container", `the API foresees ${JSON.stringify(one?.limit_ahead)}`);
    const at = new Date(one.limit_ahead.at * 1000).toISOString().slice(11, 19);
    const page = await open(served.url, { hash: `#/container/${one.id}` });
    await page.waitForSelector(".panel .numbers");
    const verdict = await page.textContent(".panel .verdict");
    truth(verdict.includes(`meets its limit of ${bytes(one.limit_ahead.bytes)} at ${at}`), verdict);
    await shot(page, "limit-ahead");
    const table = await open(served.url, { hash: "#/?range=900" });
    await table.keyboard.press("ArrowDown");
    await table.keyboard.press("ArrowRight");
    await table.waitForSelector(".row.container");
    const row = await table.textContent(".row.container");
    truth(row.includes(`meets its limit at ${at}`), row);
    await shot(table, "limit-ahead-table");
  } finally { await served.stop(); }
});

await test("names that are hostile are text", async open => {
  const page = await open(scaled.url, { before: rewrite(state => {
    hostile.forEach((name, i) => {
      const [container, workload] = [structuredClone(state.containers[0]), structuredClone(state.workloads[0])];
      Object.assign(container, { id: String(900000 + i), namespace: name, pod: name, container: name, workload: name, workload_type: name });
      container.cause.evidence = [name];
      Object.assign(workload, { key: `${name}/${name}/${name}:${name}`, namespace: name, workload: name, workload_type: name, container: name });
      workload.risk.why = name;
      state.containers.push(container);
      state.workloads.push(workload);
    });
    for (const kill of state.kills) { kill.victim_command = hostile[0]; kill.container.pod = hostile[4]; }
    for (const event of state.scale_events) { event.workload = hostile[0]; event.by_name = hostile[1]; }
    for (const finding of state.findings) finding.text = hostile[4];
  }) });
  for (const hash of ["#/kill/1", `#/workload/${encodeURIComponent(`${hostile[0]}/${hostile[0]}/${hostile[0]}:${hostile[0]}`)}`, "#/container/900001", "#/<img src=x onerror=window.pwned=1>", "#/workload/%E0%A4%A"]) {
    await page.evaluate(hash => { location.hash = hash; }, hash);
    await page.waitForTimeout(150);
  }
  equal(await page.evaluate(() => [window.pwned, document.images.length, document.querySelectorAll("#app script").length]), [undefined, 0, 0], "what the names made");
  const text = await page.textContent("body");
  truth(!/[\u202a-\u202e\u0000-\u0008\u001b]/.test(text), "control characters and changes of direction are shown, not obeyed");
  equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, "nothing makes the page wider");
  await shot(page, "hostile");
});

await test("a thousand containers: few rows in the document, and it scrolls", async open => {
  const page = await open(small.url, { before: rewrite(state => {
    const [container, workload] = [state.containers[0], state.workloads[0]];
    state.containers = [];
    state.workloads = [];
    for (let i = 0; i < 1000; i++) {
      const names = { namespace: `team-${i % 23}`, workload: `service-${i}`, workload_type: "deployment", container: "app" };
      const limit = (64 + i % 7 * 64) << 20;
      const peak = Math.floor(limit * (0.3 + i * 37 % 70 / 100));
      const kills = i % 97 ? 0 : 1 + i % 3;
      const fails = i % 11 === 3;
      state.containers.push({ ...container, ...names, id: String(i), pod: `service-${i}-7d9f-${i % 89}`, state: ["stable", "stable", "stable", "starting", "drifting"][i % 5], ended: null, exit: null, usage_bytes: Math.floor(peak * 0.7), peak_bytes: peak, limit_bytes: limit, oom_kills: kills });
      state.workloads.push({ ...workload, ...names, key: `team-${i % 23}/deployment/service-${i}:app`, containers: 1, startups: 3 + i % 5, peak_bytes: peak, limit_bytes: limit, oom_kills: kills, advice: { ...workload.advice, limit_bytes: fails ? Math.floor(limit * 1.4) : limit, request_bytes: null, missing: null },
        risk: kills ? { level: "high", score: 1000 * kills, why: `${kills} OOM kills` } : fails ? { level: "high", score: 500, why: "fails: limit covers peak" } : peak > 0.9 * limit ? { level: "medium", score: 100, why: `peak at ${Math.round(100 * peak / limit)} % of its limit` } : { level: "low", score: 0, why: "12 checks, nothing to change" } });
    }
  }) });
  equal((await page.textContent(".count")).trim(), "1000", "workloads");
  truth(await page.$$eval(".rows .row", all => all.length) < 60, "only rows in sight are in the document");
  await shot(page, "thousand");
  const rate = await page.evaluate(() => new Promise(resolve => {
    let frames = 0;
    const began = performance.now();
    const step = () => {
      scrollBy(0, 180);
      frames++;
      const took = performance.now() - began;
      if (took < 2000) requestAnimationFrame(step); else resolve(frames / took * 1000);
    };
    requestAnimationFrame(step);
  }));
  console.log(`note: scrolled at ${rate.toFixed(0)} frames a second`);
  const seen = await page.$$eval(".rows .row", all => all.filter(row => { const box = row.getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight; }).length);
  truth(seen > 10, `${seen} rows in sight after scrolling`);
  await page.fill("input[type=search]", "service-777");
  await page.waitForFunction(() => document.querySelectorAll(".rows .row").length === 1);
  await page.selectOption("select[aria-label=State]", "drifting").catch(() => {});
});

await test("empty, loading, degraded, forbidden and disconnected are drawn on purpose", async open => {
  const empty = await open(small.url, { before: async page => {
    await rewrite(state => { state.containers = []; state.workloads = []; state.kills = []; state.findings = []; state.node.starting = 0; })(page);
    await page.route("**/api/v1/startups*", route => route.fulfill({ json: [] }));
  } });
  truth((await empty.textContent(".table")).includes("No container has started"), "empty");
  await shot(empty, "empty");

  const loading = await open(small.url, { ready: false, before: page => page.route("**/api/v1/state", () => {}) });
  await loading.waitForSelector(".tile.skeleton");
  await shot(loading, "loading");

  const degraded = await open(scaled.url, { before: rewrite(state => {
    Object.assign(state.status, { live: true, ready: false, missing: ["required probe page_fault is broken (verifier)"], kubernetes: { state: "away", node: "node-1", why: "connection refused" } });
  }) });
  const banners = await degraded.textContent(".banners");
  for (const text of ["page_fault", "Kubernetes does not answer", "connection refused", "oom_scope"]) truth(banners.includes(text), `${text}: ${banners}`);
  await shot(degraded, "degraded");

  for (const status of [401, 403]) {
    const forbidden = await open(small.url, { ready: false, before: page => page.route("**/api/v1/**", route => route.fulfill({ status, body: "your account may not get /metrics" })) });
    await forbidden.waitForSelector("body[data-connection=forbidden]");
    truth((await forbidden.textContent(".whole")).includes("your account may not get /metrics"), "what was said");
    if (status === 403) await shot(forbidden, "forbidden");
  }

  const served = await serve(`${cases}/spike_settles/events.jsonl`);
  const page = await open(served.url);
  await served.stop();
  await page.waitForSelector("body[data-connection=lost]");
  truth((await page.textContent(".banners")).includes("Not connected"), "disconnected");
  truth(await page.isVisible(".rows .row"), "what was known is still shown");
  await shot(page, "disconnected");
});

await test("dark, narrow, whole node and every range are drawn", async open => {
  const dark = await open(scaled.url, { dark: true, hash: "#/?scale=node" });
  await shot(dark, "dark");
  const narrow = await open(scaled.url, { width: 390, height: 844 });
  equal(await narrow.evaluate(() => document.documentElement.scrollWidth), 390, "width of a narrow page");
  await shot(narrow, "narrow");
  const container = (await scaled.api("containers")).at(-1);
  const opened = await open(scaled.url, { width: 390, height: 844, dark: true, hash: `#/container/${container.id}` });
  await opened.waitForSelector(".panel .curve canvas");
  await shot(opened, "narrow-container");
  for (const range of ["2", "3", "4", "s", "1"]) {
    await dark.keyboard.press(range);
    await dark.waitForTimeout(100);
  }
  const wide = await open(scaled.url, { width: 1720, height: 1000, hash: `#/workload/${encodeURI((await scaled.api("workloads"))[0].key)}` });
  await shot(wide, "workload");
  const quiet = await open(small.url);
  await shot(quiet, "stampede");
  const times = await quiet.evaluate(() => ({ paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime, loaded: performance.now() }));
  console.log(`note: first paint after ${times.paint?.toFixed(0)} ms`);
});

/** A report of a case, opened as a file. */
function reported(name, ...options) {
  const file = `${out}/report-${name}.html`;
  const made = spawnSync(observer, ["report", `${cases}/${name}/events.jsonl`, "-o", file, ...options], { encoding: "utf8" });
  equal(made.status, 0, `exit code of observer report: ${made.stderr}`);
  return { url: pathToFileURL(resolve(file)).href, said: made.stderr };
}

await test("a report opened from a file draws what the API of its recording answers, and asks for nothing", async open => {
  const { url } = reported("kubernetes_scale_up_while_the_api_is_silent");
  const asked = [];
  const page = await open(url, { before: page => { page.on("request", request => asked.push(request.url())); } });
  equal(asked, [url], "what was asked for");
  const [kills, events, workloads, containers] = await Promise.all(["kills", "scale-events", "workloads", "containers"].map(scaled.api));
  const counted = async kind => (await page.$$eval(`.mark.${kind}`, all => all.map(mark => Number(mark.querySelector("b")?.textContent ?? 1)))).reduce((a, b) => a + b, 0);
  equal([await counted("kill"), await counted("scale")], [kills.length, events.length], "marks of kills and scale events");
  await page.evaluate(() => document.querySelector(".table").scrollIntoView());
  await page.waitForSelector(".rows .row.workload");
  const rows = await page.$$eval(".rows .row.workload", all => all.map(row => row.textContent));
  const shown = workloads.filter(one => one.startups || one.namespace || one.oom_kills).sort((a, b) => b.risk.score - a.risk.score);
  equal(rows.length, shown.length, "rows");
  shown.forEach((one, i) => { for (const text of [one.workload, one.risk.why, bytes(one.peak_bytes)]) truth(rows[i].includes(text), `${text} is not in ${rows[i]}`); });
  // The words at its top.
  const words = await page.textContent(".report");
  const sum = kills.reduce((all, kill) => all + kill.kills, 0);
  for (const text of [`${sum} OOM kills`, kills.at(-1).container.workload, kills.at(-1).victim_command, String(kills.at(-1).victim_pid), "whose limit", "What to set"]) truth(words.includes(text), `${text} is not in ${words}`);
  await page.evaluate(() => scrollTo(0, 0));
  await shot(page, "report");
  // The same pixels, where the same is shown.
  const served = await open(scaled.url, { hash: `#/?range=${await page.evaluate(() => document.querySelector("[data-range][aria-pressed=true]").dataset.range)}` });
  const drawn = page => page.evaluate(() => { const { top, from, until } = document.querySelector(".node .plot").dataset; return [top, from, until]; });
  equal(await drawn(page), await drawn(served), "scales of the plot");
  const startups = await scaled.api("startups");
  for (const startup of startups.slice(-3)) {
    const at = Math.floor(startup.started) + 1.5;
    const [a, b] = [await painted(page, at), await painted(served, at)];
    truth(Math.abs(a - b) <= Number((await drawn(page))[0]) * 0.01, `${a} painted in the report, ${b} served`);
  }
  // What opens.
  const one = containers.filter(one => one.time_to_stable_seconds != null).at(-1);
  const detail = await scaled.api(`containers/${one.id}`);
  await page.evaluate(id => { location.hash = `#/container/${id}`; }, one.id);
  await page.waitForSelector(".panel .curve canvas");
  const panel = await page.textContent(".panel");
  for (const text of [one.pod, bytes(one.startup_peak_bytes), bytes(one.steady_bytes), ...one.cause.evidence, `${detail.earlier.length} earlier start-up`]) truth(panel.includes(text), `${text} is not in the panel: ${panel}`);
  await shot(page, "report-container");
  await page.keyboard.press("Escape");
  await page.click(".mark.kill");
  truth((await page.textContent(".panel")).includes("OOM kill"), "a kill opens");
  equal(asked.length, 1, "requests after everything was opened");
});

/** The recording as it would be had `observer lend` lent to the pods it names: by pod, MiB requested at the end. */
function lentTo(file, requested) {
  const [MIB, STEADY, NEED] = [1 << 20, 14 * (1 << 20), 28 * (1 << 20)];
  const lines = readFileSync(file, "utf8").trimEnd().split("\n").map(line => JSON.parse(line));
  let last = lines.at(-1).at;
  const pods = new Map();
  for (const { what } of lines) {
    if (!what.pod) continue;
    const part = Object.keys(requested).find(part => what.pod.name.endsWith(part));
    if (!part) continue;
    for (const one of what.pod.containers) Object.assign(one, { request: STEADY, loan: { requested: NEED, need: NEED, deadline_seconds: 180 } });
    pods.set(part, what.pod);
  }
  for (const [part, pod] of pods) {
    const given = structuredClone(pod);
    for (const one of given.containers) one.loan.requested = requested[part] * MIB;
    lines.push({ at: ++last, what: { pod: given } });
  }
  lines.push({ at: last + 1e9, what: "tick" });
  const made = `${out}/lent.jsonl`;
  writeFileSync(made, lines.map(line => JSON.stringify(line)).join("\n") + "\n");
  return made;
}

await test("what is lent for starts is listed, to whom and since when, and only where there is any", async open => {
  const none = await open(scaled.url);
  equal(await none.$$eval(".loans", all => all.length), 0, "lists of loans without any");
  const file = `${cases}/kubernetes_scale_up_by_a_bot/events.jsonl`;
  const lent = await serve(lentTo(file, { b9gd4: 14, f6wlm: 28, fzz2r: 20, j6rsc: 28 }));
  try {
    const containers = (await lent.api("containers")).filter(one => one.loan);
    equal(containers.map(one => one.loan.lent_bytes / (1 << 20)).sort((a, b) => a - b), [6, 14, 14], "MiB that are lent");
    const page = await open(lent.url);
    const list = await page.textContent(".loans");
    const clock = at => new Date(at * 1000).toISOString().slice(11, 19);
    for (const text of ["34 MiB lent", "to 3 containers"]) truth(list.includes(text), `${text} is not in ${list}`);
    for (const one of containers) for (const text of [one.pod, `requests ${bytes(one.loan.requested_bytes)}, ${bytes(one.loan.steady_bytes)} when settled`, `needed ${bytes(one.startup_peak_bytes - one.loan.steady_bytes)}`, clock(one.loan.since)]) truth(list.includes(text), `${text} is not in ${list}`);
    truth(!list.includes("b9gd4"), `what was given back is in ${list}`);
    await shot(page, "lent");
    await page.click(".loans .event");
    const panel = await page.waitForSelector(".panel .numbers").then(numbers => numbers.textContent());
    truth(panel.includes("request28 MiB14 MiB of it lent for the start"), panel);
    await shot(page, "lent-container");
    for (const [name, shape] of [["lent-dark", { dark: true }], ["lent-narrow", { width: 390, height: 844 }]]) {
      const other = await open(lent.url, shape);
      equal(await other.evaluate(() => document.documentElement.scrollWidth), shape.width ?? 1440, "width of the page");
      await other.evaluate(() => document.querySelector(".loans").scrollIntoView());
      await shot(other, name);
    }
  } finally { await lent.stop(); }
});

await test("a report without kills, of a recording that was cut, narrow and dark", async open => {
  const { url, said } = reported("stampede_on_a_small_node");
  truth(/KiB/.test(said), said);
  const page = await open(url, { width: 390, height: 844, dark: true });
  equal(await page.evaluate(() => document.documentElement.scrollWidth), 390, "width of a narrow page");
  await shot(page, "report-narrow");
  const whole = readFileSync(`${cases}/scale_up_of_four/events.jsonl`, "utf8");
  const cut = `${out}/cut.jsonl`;
  writeFileSync(cut, whole.slice(0, whole.length - 9).replaceAll("/observer-case", "/</script><img src=x onerror=window.pwned=1>"));
  const made = spawnSync(observer, ["report", cut, "-o", `${out}/report-cut.html`], { encoding: "utf8" });
  equal(made.status, 0, made.stderr);
  const hostile = await open(pathToFileURL(resolve(`${out}/report-cut.html`)).href);
  truth((await hostile.textContent(".banners")).includes("is cut"), "that it was cut");
  equal(await hostile.evaluate(() => [window.pwned, document.images.length, document.scripts.length]), [undefined, 0, 2], "what the names made");
  await shot(hostile, "report-cut");
});

await browser.close();
await scaled.stop();
await small.stop();
process.exit(failed ? 1 : 0);
