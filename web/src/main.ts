// The page: what the link says is what is shown. State comes from the store; every view reads it and draws itself.

import { report } from "./api"; // first: it asks for the state while the rest is made
import { Panel } from "./detail";
import { h, show } from "./dom";
import { bytes, clock, date, name, percent, plural, seconds } from "./format";
import { lent, loans } from "./loans";
import { NodeChart, RANGES } from "./node";
import { repaint } from "./palette";
import { headline } from "./report";
import { Store } from "./store";
import { Table } from "./table";

const STATES = ["starting", "stable", "drifting", "oscillating", "running", "ended", "killed"];
/** A report shows all of its recording at first. */
const RANGE = report ? (RANGES.find(([, span]) => span >= report!.span_seconds) ?? RANGES.at(-1)!)[1] : 900;
const DEFAULTS: Record<string, string> = { open: "", q: "", ns: "", state: "", quiet: "", range: String(RANGE), scale: "" };

/** `#open?key=value`: everything one can look at has a link. */
function read(): Record<string, string> {
  const [open = "", query = ""] = location.hash.slice(1).split("?");
  const link = { ...DEFAULTS };
  try { link.open = decodeURI(open).replace(/^\//, ""); } catch { /* a link that was cut */ }
  for (const [key, value] of new URLSearchParams(query)) if (key in DEFAULTS && key !== "open") link[key] = value;
  return link;
}

function write(link: Record<string, string>): void {
  const query = new URLSearchParams(Object.entries(link).filter(([key, value]) => key !== "open" && value !== DEFAULTS[key]));
  const hash = `#/${encodeURI(link.open!).replaceAll("?", "%3F").replaceAll("#", "%23")}${query.size ? `?${query}` : ""}`;
  const typing = link.q !== read().q;
  try {
    if (typing) history.replaceState(null, "", hash); else history.pushState(null, "", hash);
  } catch { location.hash = hash; /* a file shown inside of something else */ }
}

let due = false;
const store = new Store(() => {
  if (due) return;
  due = true;
  const now = (): void => { if (due) { due = false; draw(); } };
  requestAnimationFrame(now);
  // A page in the background gets no frames.
  setTimeout(now, 500);
});

function turn(change: Record<string, string>): void {
  write({ ...read(), ...change });
  follow();
}

const search = h("input", {
  type: "search", placeholder: "Search pods, workloads", "aria-label": "Search", title: "Key /", spellcheck: "false", autocomplete: "off",
  oninput: (event: Event) => turn({ q: (event.target as HTMLInputElement).value }),
});
const namespaces = h("select", { "aria-label": "Namespace", onchange: (event: Event) => turn({ ns: (event.target as HTMLSelectElement).value }) });
namespaces.hidden = true;
const states = h("select", { "aria-label": "State", onchange: (event: Event) => turn({ state: (event.target as HTMLSelectElement).value }) },
  h("option", { value: "" }, "any state"), STATES.map(state => h("option", { value: state }, state)));
const table = new Table(store, turn, h("div", { class: "controls" }, search, namespaces, states));
const chart = new NodeChart(store, turn);
const panel = new Panel(store, turn);
const title = h("div", { class: "title" });
const connection = h("div", { class: "connection", role: "status" });
const banners = h("div", { class: "banners" });
const tiles = h("div", { class: "tiles" });
const happened = h("div", { class: "list" });
const rail = h("section", { class: "card rail", "aria-label": "What happened" }, h("header", null, h("h2", null, "What happened")), happened);
const content = h("main", null, report ? headline(report, turn) : null, tiles, chart.element, h("div", { class: "columns" }, table.element, rail));
const whole = h("div", { class: "whole" });
const help = h("dialog", { class: "help", "aria-label": "Keys" }, h("h2", null, "Keys"), h("dl", null,
  [["/", "search"], ["↑ ↓", "from row to row"], ["→ ←", "open a workload's containers, close them"], ["Enter", "open what is chosen"], ["Esc", "close"], ["1 – 4", "span of time"], ["s", "scale: start-ups or whole node"], ["drag", "zoom; double-click: back"]]
    .map(([key, what]) => h("div", null, h("dt", null, h("kbd", null, key!)), h("dd", null, what!)))), h("form", { method: "dialog" }, h("button", null, "Close")));

document.getElementById("app")!.replaceChildren(
  h("header", { class: "top" }, title, connection, h("button", { class: "round", type: "button", "aria-label": "Keys", title: "Keys: ?", onclick: () => help.showModal() }, "?")),
  banners, whole, content, panel.element, help);

/** What the link says, into the views. */
function follow(): void {
  const link = read();
  const range = Number(link.range) || RANGE;
  if (range !== chart.range) {
    chart.range = range;
    if (store.state) void store.backfill(store.now - range).catch(() => { /* the stream tells when it does not answer */ });
  }
  chart.whole = link.scale === "node";
  table.filter = { q: link.q!, ns: link.ns!, state: link.state!, quiet: link.quiet === "1" };
  table.chosen = link.open!;
  if (search.value !== link.q) search.value = link.q!;
  states.value = link.state!;
  panel.set(link.open!);
  store.version++;
  draw();
}

function draw(): void {
  const { state, connection: how } = store;
  document.body.dataset.connection = how;
  drawConnection();
  const forbidden = how === "forbidden";
  const lostAtOnce = how === "lost" && !state;
  content.hidden = forbidden || lostAtOnce;
  show(whole,
    forbidden ? [h("h1", null, "This observer does not let you in"), h("p", null, store.error ? name(store.error, 300) : "Your account may not read it."),
      h("p", { class: "dim" }, "It asks Kubernetes who you are and whether you may get /metrics. Send a token of an account that may, for instance through kubectl port-forward with a proxy that adds it; SECURITY.md says how.")] : null,
    lostAtOnce ? [h("h1", null, "The observer does not answer"), h("p", null, "This page tries again by itself. On the node: is it running, and is this still its address?"), h("p", { class: "dim" }, name(store.error, 200))] : null);
  whole.hidden = !forbidden && !lostAtOnce;
  if (forbidden || lostAtOnce) return;
  content.classList.toggle("loading", !state);
  drawTiles();
  if (!state) return;
  drawNamespaces();
  drawBanners();
  chart.draw();
  table.draw();
  panel.draw();
  drawRail();
  document.body.dataset.ready = store.history ? "yes" : "no";
}

let shownTitle = "";
function drawConnection(): void {
  const { state, connection: how } = store;
  const status = state?.status;
  const where = status?.kubernetes?.node || "";
  const now = `${where} ${status?.recording ?? ""}`;
  if (now !== shownTitle || !title.firstChild) {
    shownTitle = now;
    show(title, h("b", null, "memory observer"), where ? h("span", { class: "name" }, name(where, 80)) : null);
  }
  const [kind, text] = how === "loading" ? ["wait", "connecting"] : how === "forbidden" ? ["bad", "forbidden"]
    : how === "lost" ? ["bad", state ? `not connected: this is ${clock(store.now)}` : "not connected"]
    : status?.live ? ["good", `live · ${clock(store.now)}`] : ["still", `recording ${name(status?.recording ?? "", 60)} · ${date(store.now)}`];
  show(connection, h("span", { class: `live ${kind}` }), h("span", { title: text! }, text!));
}

function tile(what: string, value: string, more: string, kind = ""): HTMLElement {
  return h("div", { class: `tile ${kind}` }, h("span", null, what), h("b", null, value), h("small", null, more));
}

function drawTiles(): void {
  const node = store.state?.node;
  if (!node) return show(tiles, Array.from({ length: 5 }, () => h("div", { class: "tile skeleton" }, h("span", null, " "), h("b", null, " "), h("small", null, " "))));
  const { available_bytes: available, pods_available_bytes: pods } = node;
  const room = pods != null && available != null ? Math.min(pods, available) : available;
  const short = room != null && node.forecast_bytes > room;
  const unknown = node.forecast_unknown;
  const take = !node.starting ? "nothing starts" : unknown === node.starting ? "first start-ups: no forecast"
    : `${node.forecast_bytes ? `worst in ${seconds(node.forecast_in_seconds)}` : "nothing more"}${unknown ? `, ${unknown} without forecast` : ""}`;
  const killed = store.state!.kills.reduce((sum, kill) => sum + kill.kills, 0);
  show(tiles,
    tile("starting now", String(node.starting), node.starting ? `holding ${bytes(node.starting_bytes)}` : `${plural(node.containers, "container")} at rest`, node.stampede ? "alarm" : ""),
    tile("will still take", !node.starting || unknown === node.starting ? "–" : bytes(node.forecast_bytes), take, short ? "alarm" : ""),
    tile(pods != null ? "room for pods" : "available", bytes(room), node.stampede ? "stampede: start-ups overlap and use it up" : pods != null ? `node has ${bytes(available)} of ${bytes(node.memory_total_bytes)}` : `of ${bytes(node.memory_total_bytes)}`, node.stampede ? "alarm" : ""),
    tile("waiting for memory", node.waiting_ratio == null ? "–" : percent(node.waiting_ratio), node.waiting_ratio == null ? "no pressure figures on this kernel" : `all tasks: ${percent(node.stalled_ratio ?? 0)}`, (node.waiting_ratio ?? 0) > 0.1 ? "warn" : ""),
    tile("OOM kills", String(killed), killed ? `last at ${clock(store.state!.kills[store.state!.kills.length - 1]!.at)}` : "none kept", killed ? "warn" : ""));
}

let knownNamespaces = "";
function drawNamespaces(): void {
  const all = [...new Set([...store.workloads.values()].map(one => one.namespace))].filter(Boolean).sort();
  const now = all.join("\n") + read().ns;
  namespaces.hidden = !all.length;
  if (now === knownNamespaces) return;
  knownNamespaces = now;
  show(namespaces, h("option", { value: "" }, "all namespaces"), all.map(each => h("option", { value: each }, name(each, 60))));
  namespaces.value = read().ns!;
}

let shownBanners = "";
function drawBanners(): void {
  const { status, probes } = store.state!;
  const all: [string, string, string][] = [];
  if (store.connection === "lost") all.push(["bad", "Not connected.", `What is shown was true at ${clock(store.now)}; trying again.`]);
  if (status.live && !status.ready) all.push(["bad", "Not ready.", status.missing.join("; ")]);
  const broken = probes.filter(probe => !probe.required && (probe.status === "broken" || probe.status === "unsupported" || probe.status === "fallback"));
  if (broken.length) all.push(["warn", "Degraded.", broken.map(probe => `${probe.probe}: ${probe.lost || probe.why || probe.status}`).join("; ")]);
  const cluster = status.kubernetes;
  if (cluster?.state === "away") all.push(["warn", "Kubernetes does not answer.", `Names and causes wait; memory is measured. ${cluster.why}`]);
  if (cluster?.state === "forbidden") all.push(["warn", "Kubernetes forbids what is needed.", cluster.why]);
  const dropped = Object.entries(status.dropped).filter(([, count]) => count > 0);
  if (dropped.length) all.push(["note", "Not everything fits.", `${dropped.map(([what, count]) => `${count} ${what.replace("_", " ")}`).join(", ")} are no longer kept; the newest are.`]);
  for (const note of report?.notes ?? []) all.push(["warn", "Note.", note]);
  const left = Object.entries(report?.left_out ?? {});
  if (left.length) all.push(["note", "Not everything fits.", `The size of a report is bounded: ${left.map(([what, count]) => `${count} ${what}`).join(", ")} are not in it, the least important ones. observer replay --serve shows all.`]);
  const made = JSON.stringify(all);
  if (made === shownBanners) return;
  shownBanners = made;
  show(banners, all.map(([kind, what, text]) => h("div", { class: `banner ${kind}`, role: kind === "bad" ? "alert" : "status" }, h("b", null, what), " ", h("span", null, name(text, 500)))));
}

let shownRail = "";
function drawRail(): void {
  const { kills, scale_events: events, findings } = store.state!;
  const borrowers = lent(store.containers.values());
  const made = `${kills.length} ${kills.at(-1)?.kill} ${JSON.stringify(events.at(-1))} ${events.length} ${findings.at(-1)?.at} ${findings.length} ${kills.at(-1)?.container?.pod} ${borrowers.map(one => [one.id, one.pod, one.loan!.requested_bytes, one.startup_peak_bytes ?? one.peak_bytes])}`;
  if (made === shownRail) return;
  shownRail = made;
  const told = findings.filter(one => one.alarm ? !/OOM/i.test(one.text) : false);
  const all: [number, HTMLElement][] = [
    ...kills.map((kill): [number, HTMLElement] => [kill.at, panel.killLink(kill)]),
    ...events.map((event): [number, HTMLElement] => [event.at, panel.scaleLink(event)]),
    ...told.map((one): [number, HTMLElement] => [one.at, h("div", { class: "event finding" }, h("span", { class: "sign" }, "!"), h("span", { class: "text" }, name(one.text, 300)), h("time", null, clock(one.at)))]),
  ];
  all.sort(([a], [b]) => b - a);
  const [recent, log] = [all.slice(0, 60), findings.slice(-100).reverse()];
  show(happened, loans(borrowers, open => turn({ open })), recent.length ? recent.map(([, element]) => element) : h("p", { class: "empty dim" }, "No scale event and no OOM kill yet."),
    h("details", null, h("summary", null, `Everything found (${findings.length})`), h("ol", { class: "log" }, log.map(one => h("li", { class: one.alarm ? "bad" : "" }, h("time", null, clock(one.at)), " ", name(one.text, 400))))));
}

addEventListener("hashchange", follow);
addEventListener("popstate", follow);
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  const typing = (event.target as Element).matches("input, select, textarea");
  if (event.key === "Escape") {
    if (typing) (event.target as HTMLElement).blur();
    else if (read().open) {
      const id = read().open!;
      turn({ open: "" });
      table.element.querySelector<HTMLElement>(`[data-id="${CSS.escape(id.startsWith("workload/") ? `w ${id.slice(9)}` : `c ${id.slice(10)}`)}"]`)?.focus({ preventScroll: true });
    }
    return;
  }
  if (typing) return;
  const range = RANGES[Number(event.key) - 1];
  if (event.key === "/") search.focus();
  else if (event.key === "?") help.showModal();
  else if (range) turn({ range: String(range[1]) });
  else if (event.key === "s") turn({ scale: read().scale ? "" : "node" });
  else if ((event.key === "ArrowDown" || event.key === "j") && document.activeElement === document.body) table.focus(0);
  else return;
  event.preventDefault();
});
repaint(() => { store.version++; draw(); });
follow();
void store.load();
