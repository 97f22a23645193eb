// Workloads, the riskiest first, each opening to its containers. Only the rows in sight are in the document.

import { Container, keyOf, Startup, Workload } from "./api";
import { h, show, svg } from "./dom";
import { bytes, clock, name, plural, seconds, words } from "./format";
import { Store } from "./store";

const ROW = 52;
const SPARE = 6;

export interface Filter { q: string; ns: string; state: string; quiet: boolean }

type Row = { kind: "workload"; workload: Workload; usage: number; peak: Startup | undefined } | { kind: "container"; container: Container };

export class Table {
  readonly element: HTMLElement;
  filter: Filter = { q: "", ns: "", state: "", quiet: false };
  chosen = "";
  private readonly open = new Set<string>();
  private readonly body = h("div", { class: "rows", role: "rowgroup" });
  private readonly empty = h("div", { class: "empty" });
  private readonly count = h("span", { class: "dim count" });
  private rows: Row[] = [];
  private mounted = new Map<string, { row: HTMLElement; made: string }>();
  private focused = "";

  constructor(private readonly store: Store, private readonly turn: (change: Record<string, string>) => void, tools: HTMLElement) {
    const head = ["risk", "workload", "containers", "last start-up", "each: now, peak, limit", "what to set"];
    this.element = h("section", { class: "card table", "aria-label": "Workloads" },
      h("header", null, h("h2", null, "Workloads ", this.count), tools),
      h("div", { role: "table", "aria-label": "Workloads by risk" },
        h("div", { class: "row head", role: "row" }, head.map(title => h("div", { role: "columnheader" }, title))), this.body),
      this.empty);
    addEventListener("scroll", () => this.mount(), { passive: true });
    addEventListener("resize", () => this.mount());
  }

  /** Reads the store anew. */
  draw(): void {
    const { q, ns, state, quiet } = this.filter;
    const usage = new Map<string, number>();
    const matching = new Map<string, Container[]>();
    const query = q.toLowerCase();
    for (const one of this.store.containers.values()) {
      const key = keyOf(one);
      if (one.ended == null) usage.set(key, (usage.get(key) ?? 0) + one.usage_bytes);
      const text = `${one.namespace}/${one.pod}/${one.container} ${one.workload} ${one.cause?.cause ?? ""}`.toLowerCase();
      const fits = (!query || text.includes(query)) && (!state || (state === "killed" ? one.oom_kills > 0 : one.state === state));
      if (fits) { const list = matching.get(key); if (list) list.push(one); else matching.set(key, [one]); }
    }
    const last = new Map<string, Startup>();
    for (const startup of this.store.startups.values()) {
      const key = keyOf(startup);
      if ((last.get(key)?.started ?? -1) <= startup.started) last.set(key, startup);
    }
    let hidden = 0;
    const shown = [...this.store.workloads.values()].filter(one => {
      if (ns && one.namespace !== ns) return false;
      const fits = matching.has(one.key) || (!state && !!query && one.key.toLowerCase().includes(query)) || (!state && !query) || (state === "killed" && one.oom_kills > 0 && (!query || one.key.toLowerCase().includes(query)));
      if (!fits) return false;
      // What never started while it was watched, is no pod's, and was not killed, is the system at rest.
      const rests = !one.startups && !one.namespace && !one.oom_kills;
      if (rests && !quiet && !query && !state) { hidden++; return false; }
      return true;
    }).sort((a, b) => b.risk.score - a.risk.score || b.starting - a.starting || (usage.get(b.key) ?? 0) - (usage.get(a.key) ?? 0) || (a.key < b.key ? -1 : 1));
    this.rows = [];
    for (const workload of shown) {
      this.rows.push({ kind: "workload", workload, usage: usage.get(workload.key) ?? 0, peak: last.get(workload.key) });
      if (!this.open.has(workload.key)) continue;
      const narrowed = query || state ? matching.get(workload.key) ?? [] : this.store.of(workload.key);
      this.rows.push(...narrowed.map((container): Row => ({ kind: "container", container })));
    }
    show(this.count, `${shown.length}${hidden ? ` of ${shown.length + hidden}` : ""}`);
    const filtered = q || ns || state;
    show(this.empty,
      !shown.length && filtered ? [h("p", null, "Nothing fits this search."), h("button", { type: "button", onclick: () => this.turn({ q: "", ns: "", state: "" }) }, "Clear search and filters")] : null,
      !shown.length && !filtered ? h("p", null, "No container has started here since the observer did. Start one, and its memory is drawn from its first page on.") : null,
      hidden ? h("p", { class: "dim" }, `${plural(hidden, "quiet group")} of the system not shown: running since before the observer, and never killed. `,
        h("button", { class: "link", type: "button", onclick: () => this.turn({ quiet: "1" }) }, "Show")) : null);
    this.body.style.setProperty("height", `${this.rows.length * ROW}px`);
    this.mount();
  }

  private id(row: Row): string {
    return row.kind === "workload" ? `w ${row.workload.key}` : `c ${row.container.id}`;
  }

  /** Puts the rows in sight into the document, and takes the others out. */
  private mount(): void {
    const top = this.body.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / ROW) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((innerHeight - top) / ROW) + SPARE);
    const wanted = new Map<string, HTMLElement>();
    for (let i = first; i < last; i++) {
      const row = this.rows[i]!;
      const id = this.id(row);
      const made = this.sign(row);
      let mounted = this.mounted.get(id);
      if (!mounted || mounted.made !== made) {
        const had = mounted?.row.contains(document.activeElement);
        const element = this.make(row);
        mounted?.row.replaceWith(element);
        mounted = { row: element, made };
        this.mounted.set(id, mounted);
        if (had) element.focus({ preventScroll: true });
      }
      mounted.row.style.setProperty("transform", `translateY(${i * ROW}px)`);
      mounted.row.setAttribute("aria-rowindex", String(i + 2));
      if (!mounted.row.isConnected) this.body.append(mounted.row);
      wanted.set(id, mounted.row);
    }
    for (const [id, { row }] of this.mounted) if (!wanted.has(id)) { row.remove(); this.mounted.delete(id); }
  }

  /** What a row shows: unchanged, it is left alone. */
  private sign(row: Row): string {
    if (row.kind === "container") {
      const one = row.container;
      return [one.state, Math.round(one.usage_bytes / 1e5), one.peak_bytes, one.limit_bytes, one.cause?.cause, one.time_to_stable_seconds, one.oom_kills, one.exit, one.pod, this.chosen === `container/${one.id}`].join(" ");
    }
    const { workload: one, peak } = row;
    return [one.risk.why, one.risk.level, one.containers, one.starting, Math.round(row.usage / 1e5), one.peak_bytes, one.limit_bytes, one.advice?.limit_bytes, one.advice?.request_bytes, one.advice?.missing, peak?.startup, peak?.outcome, peak?.seconds == null ? peak?.curve.kib.length : "", this.open.has(one.key), this.chosen === `workload/${one.key}`].join(" ");
  }

  private make(row: Row): HTMLElement {
    const element = row.kind === "workload" ? this.workload(row.workload, row.usage, row.peak) : this.container(row.container);
    element.tabIndex = 0;
    element.dataset.id = this.id(row);
    const open = row.kind === "workload" ? `workload/${row.workload.key}` : `container/${row.container.id}`;
    if (this.chosen === open) element.setAttribute("aria-current", "true");
    element.addEventListener("focus", () => { this.focused = this.id(row); });
    element.addEventListener("click", event => { if (!(event.target as Element).closest("button")) this.turn({ open }); });
    element.addEventListener("keydown", event => this.key(event, row, open));
    return element;
  }

  private key(event: KeyboardEvent, row: Row, open: string): void {
    if (event.target !== event.currentTarget) return;
    const at = this.rows.findIndex(one => this.id(one) === this.focused);
    if (event.key === "Enter") this.turn({ open });
    else if (event.key === "ArrowDown" || event.key === "j") this.focus(at + 1);
    else if (event.key === "ArrowUp" || event.key === "k") this.focus(at - 1);
    else if (event.key === "Home") this.focus(0);
    else if (event.key === "End") this.focus(this.rows.length - 1);
    else if (row.kind === "workload" && event.key === "ArrowRight" && !this.open.has(row.workload.key)) this.toggle(row.workload.key);
    else if (row.kind === "workload" && event.key === "ArrowLeft" && this.open.has(row.workload.key)) this.toggle(row.workload.key);
    else return;
    event.preventDefault();
  }

  focus(at: number): void {
    const row = this.rows[Math.max(0, Math.min(at, this.rows.length - 1))];
    if (!row) return;
    const top = this.body.getBoundingClientRect().top + this.rows.indexOf(row) * ROW;
    if (top < 80) scrollBy(0, top - 80); else if (top > innerHeight - 2 * ROW) scrollBy(0, top - innerHeight + 2 * ROW);
    this.mount();
    this.mounted.get(this.id(row))?.row.focus({ preventScroll: true });
  }

  private toggle(key: string): void {
    if (!this.open.delete(key)) this.open.add(key);
    this.draw();
  }

  private workload(one: Workload, usage: number, last: Startup | undefined): HTMLElement {
    const opened = this.open.has(one.key);
    const place = one.namespace ? `${one.namespace} · ${one.workload_type}${one.container && one.container !== one.workload ? ` · ${one.container}` : ""}` : words(one.workload_type || "group");
    return h("div", { class: "row workload", role: "row", "aria-expanded": String(opened) },
      h("div", { role: "cell", class: "risk" }, h("span", { class: `dot ${one.risk.level}` }), one.risk.level),
      h("div", { role: "cell", class: "who" },
        h("button", { class: "fold", type: "button", "aria-label": `${opened ? "Close" : "Open"} ${name(one.key, 80)}`, onclick: () => this.toggle(one.key), tabindex: -1 }, opened ? "▾" : "▸"),
        h("div", null, h("b", { class: "name", title: name(one.key) }, name(one.workload)), h("small", { class: "name" }, name(place)))),
      h("div", { role: "cell", class: "number" }, one.containers, one.starting ? h("small", { class: "starting" }, `${one.starting} starting`) : one.containers ? null : h("small", null, "ended")),
      h("div", { role: "cell", class: "spark" }, last ? spark(last, one.limit_bytes) : h("small", null, "none seen"), last ? h("small", null, last.outcome === "oom_killed" ? "killed" : last.time_to_stable_seconds != null ? `stable ${seconds(last.time_to_stable_seconds)}` : last.outcome) : null),
      h("div", { role: "cell", class: "memory" }, bar(usage, one.peak_bytes, one.limit_bytes, one.containers)),
      h("div", { role: "cell", class: "advice" }, advice(one), h("small", { class: "name", title: name(one.risk.why, 600) }, name(one.risk.why))));
  }

  private container(one: Container): HTMLElement {
    return h("div", { class: "row container", role: "row" },
      h("div", { role: "cell" }),
      h("div", { role: "cell", class: "who" }, h("div", null, h("span", { class: "name", title: name(one.pod || one.container) }, name(one.pod || one.container)),
        h("small", { class: "name" }, one.cause ? words(one.cause.cause) : one.started == null ? "ran before the observer" : "cause not known yet"))),
      h("div", { role: "cell" }, state(one)),
      h("div", { role: "cell" }, h("small", null, one.time_to_stable_seconds != null ? `stable after ${seconds(one.time_to_stable_seconds)}` : one.exit ?? "")),
      h("div", { role: "cell", class: "memory" }, bar(one.ended == null ? one.usage_bytes : 0, one.peak_bytes, one.limit_bytes, one.ended == null ? 1 : 0)),
      h("div", { role: "cell", class: "advice" }, one.limit_ahead ? h("span", { class: "bad" }, `meets ${LIMITS[one.limit_ahead.limit] ?? "a limit"} at ${clock(one.limit_ahead.at)}`) : one.oom_kills ? h("span", { class: "bad" }, plural(one.oom_kills, "OOM kill")) : null));
  }
}

/** Which limit is foreseen to be met. */
export const LIMITS: Record<string, string> = { container: "its limit", pod: "its pod's limit", node: "the node's limit" };

const SIGNS: Record<string, string> = { starting: "↗", stable: "✓", drifting: "⇡", oscillating: "∿", running: "·", ended: "■" };

export function state(one: Container): HTMLElement {
  return h("span", { class: `pill ${one.state}` }, h("i", null, SIGNS[one.state] ?? "·"), one.state);
}

/** Now and peak as a bar whose whole length is the limit, or the peak where there is none. */
function bar(now: number, peak: number, limit: number | null, live: number): HTMLElement {
  const whole = Math.max(limit ?? 0, peak, 1);
  const share = (value: number): string => `${Math.max(0, Math.min(100, 100 * value / whole)).toFixed(1)}%`;
  const near = limit != null && peak >= 0.9 * limit;
  const each = live > 1 ? now / live : now;
  return h("div", { class: "bar-with" },
    h("div", { class: `bar${limit == null ? " endless" : ""}`, "aria-hidden": "true" },
      h("i", { class: `peak${near ? " near" : ""}`, style: { width: share(peak) } }), h("i", { class: "now", style: { width: share(each) } })),
    h("small", null, `${live ? bytes(each) : "ended"} · peak `, h("span", { class: near ? "bad" : "" }, bytes(peak)), limit == null ? "" : ` of ${bytes(limit)}`));
}

function advice(one: Workload): HTMLElement | null {
  const set = one.advice;
  if (!set) return h("span", { class: "dim" }, "–");
  const parts: (HTMLElement | string)[] = [];
  const change = (what: string, now: number | null, then: number | null, trial: boolean): void => {
    if (then == null || now != null && Math.abs(now - then) < then * 0.02) return;
    parts.push(h("span", { class: "set" }, `${what} `, now == null ? null : h("s", null, `${bytes(now)} → `), h("b", null, trial ? `try ${bytes(then)}` : bytes(then))));
  };
  change("limit", set.current_limit_bytes ?? one.limit_bytes, set.limit_bytes, set.limit_is_trial);
  change("request", set.current_request_bytes, set.request_bytes, false);
  const title = parts.map(part => typeof part === "string" ? part : part.textContent).join(", ");
  // Where both change there is room for what to set, and none for what is: that is under the pointer, and opens.
  if (parts.length > 1) for (const part of parts) (part as HTMLElement).querySelector("s")?.remove();
  return h("span", { class: "sets", title }, parts.length ? parts : h("span", { class: "dim" }, set.missing ? "too little seen" : "fits"));
}

/** The start-up as a picture of 96 by 26. */
function spark(startup: Startup, limit: number | null): SVGElement {
  const [width, height] = [96, 24];
  const { kib } = startup.curve;
  const most = Math.max(...kib, 1);
  const ceiling = limit != null && limit / 1024 < most * 2.5 ? limit / 1024 : null;
  const top = Math.max(most, ceiling ?? 0) * 1.04;
  const y = (value: number): string => (height - value / top * (height - 1)).toFixed(1);
  const step = width / Math.max(kib.length, 1);
  const path = kib.map((value, i) => `${i ? "L" : "M"}${(i * step).toFixed(1)} ${y(value)}L${((i + 1) * step).toFixed(1)} ${y(value)}`).join("");
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", class: startup.outcome },
    path && svg("path", { class: "area", d: `${path}L${width} ${height}L0 ${height}Z` }) as unknown as string, path && svg("path", { class: "line", d: path }) as unknown as string,
    ceiling && svg("line", { class: "limit", x1: 0, x2: width, y1: y(ceiling), y2: y(ceiling) }) as unknown as string);
}
