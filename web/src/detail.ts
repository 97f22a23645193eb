// What opens: a container, a workload, a kill, a scale event. One panel, and each has a link.

import uPlot from "uplot";
import { ask, Check, Container, Detail, keyOf, Kill, Refused, ScaleEvent, Startup, Workload } from "./api";
import { h, show } from "./dom";
import { bytes, clock, date, name, percent, plural, seconds, words } from "./format";
import { steps } from "./node";
import { colours } from "./palette";
import { Store } from "./store";
import { LIMITS, state } from "./table";

type Turn = (change: Record<string, string>) => void;

export class Panel {
  readonly element = h("aside", { class: "panel", "aria-label": "Details", tabindex: -1, hidden: true });
  private readonly body = h("div", { class: "body" });
  private open = "";
  private made = "";
  private detail: Detail | null = null;
  private asked = 0;
  private plot: uPlot | null = null;
  private all = false;

  constructor(private readonly store: Store, private readonly turn: Turn) {
    this.element.append(h("button", { class: "close", type: "button", "aria-label": "Close", title: "Esc", onclick: () => turn({ open: "" }) }, "×"), this.body);
    new ResizeObserver(() => { if (this.plot && this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: 240 }); }).observe(this.body);
  }

  /** Opens what the link says. */
  set(open: string): void {
    if (open === this.open) return;
    this.open = open;
    this.made = "";
    this.detail = null;
    this.asked = 0;
    this.all = false;
    this.element.hidden = !open;
    document.body.classList.toggle("opened", !!open);
    this.draw();
    if (open) { this.element.scrollTop = 0; this.element.focus({ preventScroll: true }); }
  }

  draw(): void {
    if (!this.open || !this.store.state) return;
    const [kind, ...rest] = this.open.split("/");
    const id = rest.join("/");
    const { kills, scale_events: events } = this.store.state;
    if (kind === "container") return void this.container(id);
    if (kind === "workload") return this.workload(id);
    if (kind === "kill") {
      const kill = kills.find(one => String(one.kill) === id);
      return this.put(JSON.stringify([kill, this.store.version >> 3]), () => kill ? this.kill(kill) : gone("This kill is no longer kept."));
    }
    if (kind === "scale") {
      const [at, workload] = [Number(rest[0]), decodeURIComponent(rest[1] ?? "")];
      const event = events.find(one => one.at === at && one.workload === workload);
      return this.put(JSON.stringify(event), () => event ? this.scale(event) : gone("This scale event is no longer kept."));
    }
    if (kind === "kills" || kind === "scales") {
      const [from, until] = [Number(rest[0]), Number(rest[1])];
      const within = (at: number): boolean => at >= from && at <= until;
      return this.put(`${this.open} ${kills.length} ${events.length}`, () => [
        h("h2", null, kind === "kills" ? "OOM kills" : "Scale events"),
        kind === "kills" ? kills.filter(one => within(one.at)).map(one => this.killLink(one)) : events.filter(one => within(one.at)).map(one => this.scaleLink(one)),
      ]);
    }
    this.put("?", () => gone("There is no such page."));
  }

  private put(made: string, make: () => unknown): void {
    if (made === this.made) return;
    this.made = made;
    this.plot?.destroy();
    this.plot = null;
    show(this.body, make() as HTMLElement[]);
  }

  private width(): number { return Math.max(240, this.body.clientWidth - 40); }

  private link(open: string, ...content: (HTMLElement | string | null)[]): HTMLElement {
    return h("button", { class: "link", type: "button", onclick: () => this.turn({ open }) }, ...content);
  }

  killLink(kill: Kill): HTMLElement {
    const who = kill.container ? name(kill.container.pod || kill.container.container, 60) : `process ${name(kill.victim_command)}`;
    return h("button", { class: "event kill", type: "button", onclick: () => this.turn({ open: `kill/${kill.kill}` }) },
      h("span", { class: "sign" }, "✕"), h("span", null, h("b", { class: "name" }, who), h("small", null, `OOM-killed, ${limitOf(kill)}; ${held(kill)}`)), h("time", null, clock(kill.at)));
  }

  scaleLink(event: ScaleEvent): HTMLElement {
    return h("button", { class: "event scale", type: "button", onclick: () => this.turn({ open: `scale/${event.at}/${encodeURIComponent(event.workload)}` }) },
      h("span", { class: "sign" }, "⇅"), h("span", null, h("b", { class: "name" }, `${name(event.workload, 60)} ${event.from ?? "?"} → ${event.to}`),
        h("small", { class: "name" }, by(event), event.outcome ? `, ${plural(event.outcome.containers, "container")} here, ${bytes(event.outcome.peak_sum_bytes)} at their peaks` : ", under way", event.kills.length ? `, ${plural(event.kills.length, "OOM kill")}` : "")), h("time", null, clock(event.at)));
  }

  // --- a container

  private async container(id: string): Promise<void> {
    const known = this.store.containers.get(id);
    const moving = known != null && known.ended == null && known.state === "starting";
    const due = Date.now() - this.asked > (moving ? 900 : 4000);
    if (!this.detail && !this.made) this.put("loading", () => h("div", { class: "skeleton tall" }));
    if (!due) return;
    this.asked = Date.now();
    const open = this.open;
    let detail: Detail;
    try { detail = await ask<Detail>(`containers/${id}`); } catch (error) {
      if (this.open === open && !this.detail) this.put(`gone ${String(error)}`, () => gone(error instanceof Refused ? error.message : "The observer does not answer."));
      return;
    }
    if (this.open !== open) return;
    this.detail = detail;
    const one = detail.container;
    const made = `${id} ${one.state} ${JSON.stringify(one.cause)} ${one.oom_kills} ${detail.earlier.length} ${detail.workload?.risk.why} ${one.time_to_stable_seconds} ${this.all}`;
    if (made === this.made) { this.update(detail); return; }
    this.put(made, () => this.containerBody(detail));
    this.curve(detail);
  }

  private containerBody({ container: one, workload, earlier, error_bytes }: Detail): unknown {
    const set = workload?.advice;
    const request = set?.current_request_bytes ?? null;
    const numbers: [string, string, string?][] = [
      ["now", one.ended == null ? bytes(one.usage_bytes) : "–", `working set ${bytes(one.working_set_bytes)}`],
      ["start-up peak", bytes(one.startup_peak_bytes), one.startup_peak_seconds != null ? `at ${seconds(one.startup_peak_seconds)}` : ""],
      ["stable after", seconds(one.time_to_stable_seconds), one.steady_bytes != null ? `at ${bytes(one.steady_bytes)}` : ""],
      ["overshoot", one.overshoot != null ? `${one.overshoot.toFixed(2)} ×` : "–", "peak over steady"],
      one.loan ? ["request", bytes(one.loan.requested_bytes), `${bytes(one.loan.lent_bytes)} of it lent for the start, since ${clock(one.loan.since)}`]
        : ["request", request != null ? bytes(request) : "–", set?.request_bytes != null ? `advised ${bytes(set.request_bytes)}` : ""],
      ["limit", one.limit_bytes != null ? bytes(one.limit_bytes) : "none", set?.limit_bytes != null ? `${set.limit_is_trial ? "try" : "advised"} ${bytes(set.limit_bytes)}` : ""],
    ];
    const kills = this.store.state!.kills.filter(kill => kill.container?.id === one.id);
    return [
      h("p", { class: "crumb" }, workload ? this.link(`workload/${workload.key}`, `← ${name(workload.key, 80)}`) : null),
      h("h2", { class: "name" }, name(one.pod || one.container, 120)), h("p", { class: "verdict" }, state(one), " ", verdict(one), one.limit_ahead ? h("span", { class: "bad" }, ` · meets ${LIMITS[one.limit_ahead.limit] ?? "a limit"} of ${bytes(one.limit_ahead.bytes)} at ${clock(one.limit_ahead.at)}`) : null),
      h("div", { class: "curve", "aria-label": "Memory since the exec", role: "img" }),
      one.started == null ? h("p", { class: "dim" }, "It ran before the observer did: its start was not seen. Its memory since then:") : this.curveLegend(earlier, error_bytes),
      h("dl", { class: "numbers" }, numbers.map(([what, value, more], i) => h("div", null, h("dt", null, what), h("dd", { "data-number": i === 0 ? "now" : null }, value), h("small", null, more ?? "")))),
      kills.map(kill => this.killLink(kill)),
      one.cause ? [h("h3", null, "Why it started"), h("p", null, h("b", null, words(one.cause.cause)), ` · ${percent(one.cause.confidence)} sure`,
        one.cause.competing.length ? h("span", { class: "dim" }, ` · could also be ${one.cause.competing.map(words).join(", ")}`) : null),
        h("ul", { class: "evidence" }, one.cause.evidence.map(text => h("li", null, name(text, 400))))] : null,
      workload ? this.checks(workload) : null,
      h("p", { class: "dim small" }, one.started != null ? `started ${date(one.started)}` : "", one.ended != null ? ` · ended ${date(one.ended)}${one.exit ? `, ${one.exit}` : ""}` : "", ` · cgroup ${one.id}`),
    ];
  }

  private curveLegend(earlier: Startup[], error: number): HTMLElement {
    const key = (kind: string, label: string): HTMLElement => h("span", { class: `key ${kind}` }, h("i"), label);
    return h("p", { class: "legend curve-legend" }, key("curve", `memory, ± ${bytes(error)}`), key("steady", "steady level and its band"),
      key("limit", "limit"), key("request", "request"), earlier.length ? key("ghost", `${plural(earlier.length, "earlier start-up")}`) : null,
      h("button", { class: "link", type: "button", onclick: () => { this.all = !this.all; this.made = ""; this.asked = 0; this.draw(); } }, this.all ? "only the start-up" : "all that is kept"));
  }

  private update(detail: Detail): void {
    const now = this.body.querySelector("[data-number=now]");
    if (now && detail.container.ended == null) now.textContent = bytes(detail.container.usage_bytes);
    if (!this.plot) return this.curve(detail);
    const drawing = this.drawing(detail);
    this.plot.setData(drawing.data, false);
    this.plot.batch(() => {
      this.plot!.setScale("x", { min: drawing.from, max: drawing.until });
      this.plot!.setScale("y", { min: 0, max: drawing.top });
    });
  }

  private drawing(detail: Detail): { data: uPlot.AlignedData; from: number; until: number; top: number; seen: boolean } {
    const { container: one, curve, history, earlier } = detail;
    const seen = one.started != null && curve.kib.length > 0;
    const [at, values]: [number[], number[]] = seen
      ? [curve.kib.map((_, i) => i * curve.width_seconds), curve.kib.map(kib => kib * 1024)]
      : [history.at, history.kib.map(kib => kib * 1024)];
    if (seen && at.length) { at.push(at[at.length - 1]! + curve.width_seconds); values.push(values[values.length - 1]!); }
    const last = at[at.length - 1] ?? 1;
    const settled = one.time_to_stable_seconds;
    const until = !seen || this.all ? last : Math.min(last, Math.max(settled != null ? settled * 2.5 : last, (one.startup_peak_seconds ?? 0) * 1.6, 5));
    const from = seen ? 0 : at[0] ?? 0;
    const most = Math.max(...values, ...earlier.flatMap(past => past.curve.kib.map(kib => kib * 1024)), 1 << 20);
    const lines = [one.limit_bytes, detail.workload?.advice?.current_request_bytes, detail.workload?.advice?.limit_bytes].filter((value): value is number => value != null && value < most * 3);
    return { data: [at, values] as uPlot.AlignedData, from, until: Math.max(until, from + 0.5), top: Math.max(most, ...lines) * 1.1, seen };
  }

  private curve(detail: Detail): void {
    const place = this.body.querySelector<HTMLElement>(".curve");
    if (!place) return;
    const drawing = this.drawing(detail);
    const font = "11.5px system-ui, sans-serif";
    const axis: uPlot.Axis = { font, stroke: () => colours().dim!, grid: { stroke: () => colours().grid!, width: 1 }, ticks: { show: false } };
    this.plot = new uPlot({
      width: this.width(), height: 240, legend: { show: false }, padding: [10, 14, 0, 0],
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: [drawing.from, drawing.until] as uPlot.Range.MinMax }, y: { range: [0, drawing.top] as uPlot.Range.MinMax } },
      axes: [
        { ...axis, space: 70, size: 30, values: (_, splits) => splits.map(value => drawing.seen ? value < 10 ? `${Number(value.toFixed(2))} s` : seconds(value) : clock(value).slice(0, 5)) },
        { ...axis, size: 68, space: 40, splits: (_, __, min, max) => steps(min, max), values: (_, splits) => splits.map(value => value ? bytes(value) : "0") },
      ],
      series: [{}, { paths: () => null, points: { show: false } }],
      hooks: { drawAxes: [plot => paint(plot, this.detail ?? detail, drawing.seen)] },
    }, drawing.data, place);
  }

  // --- a workload

  private workload(key: string): void {
    const one = this.store.workloads.get(key);
    if (!one) return this.put("gone", () => gone("No container of this workload is known any more."));
    const containers = this.store.of(key);
    const made = `${JSON.stringify(one)} ${containers.map(c => c.id + c.state + Math.round(c.usage_bytes / 1e6)).join()}`;
    this.put(made, () => {
      const set = one.advice;
      const kills = this.store.state!.kills.filter(kill => kill.container && keyOf(kill.container) === key);
      const events = this.store.state!.scale_events.filter(event => event.workload === one.workload && event.namespace === one.namespace);
      return [
        h("p", { class: "crumb dim" }, name(one.namespace ? `${one.namespace} · ${one.workload_type}` : words(one.workload_type || "group"))),
        h("h2", { class: "name" }, name(one.workload, 120)), h("p", { class: "verdict" }, h("span", { class: `dot ${one.risk.level}` }), `${one.risk.level === "unknown" ? "not judged" : `${one.risk.level} risk`}: ${name(one.risk.why, 400)}`),
        set ? h("dl", { class: "numbers" },
          number("set request", set.request_bytes, set.current_request_bytes, set.current_request_known, "p95 of steady usage"),
          number(set.limit_is_trial ? "try limit" : "set limit", set.limit_bytes, set.current_limit_bytes ?? one.limit_bytes, set.current_limit_known, "see below"),
          h("div", null, h("dt", null, "worst need"), h("dd", null, bytes(set.worst_bytes)), h("small", null, "of a start-up that came through, or later"))) : h("p", { class: "dim" }, "No start-up was seen whole yet; advice comes with them."),
        set?.limit_reason ? h("p", { class: "dim small" }, `The limit: ${name(set.limit_reason, 400)}.`) : null,
        this.checks(one),
        kills.length ? [h("h3", null, "OOM kills"), kills.slice(-10).reverse().map(kill => this.killLink(kill))] : null,
        events.length ? [h("h3", null, "Scale events"), events.slice(-10).reverse().map(event => this.scaleLink(event))] : null,
        h("h3", null, `Containers (${containers.length})`),
        h("div", { class: "list" }, containers.slice(0, 100).map(each => h("button", { class: "event", type: "button", onclick: () => this.turn({ open: `container/${each.id}` }) },
          state(each), h("span", null, h("b", { class: "name" }, name(each.pod || each.container, 80)), h("small", null, `${each.ended == null ? bytes(each.usage_bytes) : each.exit ?? "ended"} · peak ${bytes(each.peak_bytes)}`)), h("time", null, each.started != null ? clock(each.started) : "")))),
        containers.length > 100 ? h("p", { class: "dim" }, `and ${containers.length - 100} more: search by name`) : null,
      ];
    });
  }

  private checks(one: Workload): unknown {
    if (!one.advice) return null;
    const rank: Record<string, number> = { fail: 0, warn: 1, pass: 2, unknown: 3 };
    const sign: Record<string, string> = { fail: "✕", warn: "!", pass: "✓", unknown: "?" };
    const item = (check: Check): HTMLElement => h("li", { class: check.grade }, h("i", { title: check.grade }, sign[check.grade] ?? ""), h("span", null, h("b", null, words(check.check)), h("small", null, name(check.evidence, 400))));
    const sorted = [...one.advice.checks].sort((a, b) => (rank[a.grade] ?? 9) - (rank[b.grade] ?? 9));
    const [told, silent] = [sorted.filter(check => check.grade !== "unknown"), sorted.filter(check => check.grade === "unknown")];
    return [h("h3", null, "Checks"), one.advice.missing ? h("p", { class: "dim" }, `No numbers yet: ${name(one.advice.missing, 300)}`) : null,
      h("ul", { class: "checks" }, told.map(item)),
      silent.length ? h("details", null, h("summary", null, `${plural(silent.length, "check")} not decided: too little seen`), h("ul", { class: "checks" }, silent.map(item))) : null];
  }

  // --- a kill

  private kill(kill: Kill): unknown {
    const of = kill.container;
    const workload = of ? this.store.workloads.get(keyOf(of)) : undefined;
    const set = workload?.advice;
    const own = victimBytes(kill);
    const caused = this.store.state!.scale_events.filter(event => event.kills.includes(kill.kill));
    const advised = set?.limit_bytes != null
      ? [`Set its limit to `, h("b", null, bytes(set.limit_bytes)), set.limit_is_trial ? ": every start-up so far was cut off, so this is the next to try." : `: ${set.limit_reason ? name(set.limit_reason, 400) : `the worst start-up seen needs ${bytes(set.worst_bytes)}`}.`]
      : kill.scope === "container" && kill.limit_bytes ? [`Its limit of ${bytes(kill.limit_bytes)} was not enough. `, set?.missing ? `No number yet: ${name(set.missing, 200)}.` : "No number yet: too few start-ups were seen."]
      : kill.scope === "unknown" ? ["Whose limit it was is not known."]
      : kill.scope === "inside" ? ["Its own limit was not the reason, but one that its own processes set inside it."]
      : ["Its own limit was not the reason; see whose it was, and who else was starting."];
    return [
      h("p", { class: "crumb bad" }, `OOM kill, ${date(kill.at)}`),
      h("h2", { class: "name" }, name(of ? of.pod || of.container : kill.victim_command, 120)),
      h("p", { class: "lead" }, `Process ${name(kill.victim_command)} (${kill.victim_pid}) was killed`, kill.starting && kill.age_seconds != null ? ` ${seconds(kill.age_seconds)} after its container started and before it was stable` : kill.age_seconds != null ? ` ${seconds(kill.age_seconds)} after its container started` : "", `; ${held(kill)}.`),
      h("dl", { class: "numbers" },
        h("div", null, h("dt", null, "whose limit"), h("dd", null, SCOPES[kill.scope]), h("small", null, kill.limit_bytes != null ? bytes(kill.limit_bytes) : "")),
        h("div", null, h("dt", null, own == null ? "its group held" : "held"), h("dd", null, bytes(own ?? kill.usage_bytes)), h("small", null, `${own == null ? "" : `its group ${bytes(kill.usage_bytes)}, `}peak ${bytes(kill.peak_bytes)}`)),
        h("div", null, h("dt", null, "asked for more"), h("dd", { class: "name" }, name(kill.invoker_command || "–", 40)), h("small", { class: "name" }, kill.invoker ? name(kill.invoker.pod || kill.invoker.container, 80) : "in the same container"))),
      h("h3", null, "What to set"), h("p", null, ...advised),
      h("h3", null, "Who else was starting"),
      kill.also_starting.length ? [kill.also_starting.map(each => h("button", { class: "event", type: "button", onclick: () => this.turn({ open: `container/${each.id}` }) },
        h("span", { class: "pill starting" }, "starting"), h("span", null, h("b", { class: "name" }, name(each.pod || each.container, 80))), h("time", null, bytes(each.usage_bytes)))),
        kill.also_starting_count > kill.also_starting.length ? h("p", { class: "dim" }, `and ${kill.also_starting_count - kill.also_starting.length} more`) : null] : h("p", { class: "dim" }, "Nobody: it was alone."),
      caused.length ? [h("h3", null, "Scale events under way"), caused.map(event => this.scaleLink(event))] : null,
      h("p", { class: "links" }, of ? this.link(`container/${of.id}`, "its start-up curve") : null, workload ? this.link(`workload/${workload.key}`, "its workload") : null),
    ];
  }

  // --- a scale event

  private scale(event: ScaleEvent): unknown {
    const did = event.outcome;
    const kills = this.store.state!.kills.filter(kill => event.kills.includes(kill.kill));
    const pods = [...this.store.containers.values()].filter(one => one.workload === event.workload && one.namespace === event.namespace && one.started != null
      && one.started >= event.at - 5 && one.started <= event.at + 180).sort((a, b) => a.started! - b.started!);
    return [
      h("p", { class: "crumb dim" }, `Scale event, ${date(event.at)}`),
      h("h2", { class: "name" }, `${name(event.workload, 100)}: ${event.from ?? "?"} → ${event.to} replicas`),
      h("p", { class: "lead" }, by(event), event.by_reason ? h("span", { class: "dim" }, `: ${name(event.by_reason, 300)}`) : null),
      did ? h("dl", { class: "numbers" },
        h("div", null, h("dt", null, "containers here"), h("dd", null, did.containers), h("small", null, `${did.starting_max} at one time`)),
        h("div", null, h("dt", null, "peaks together"), h("dd", null, bytes(did.peak_sum_bytes)), h("small", null, `${bytes(did.overshoot_sum_bytes)} of it overshoot`)),
        h("div", null, h("dt", null, "settled after"), h("dd", null, did.settled_seconds != null ? seconds(did.settled_seconds) : "not all"), h("small", null, did.stall_seconds ? `stalled ${seconds(did.stall_seconds)}` : "never stalled")),
        h("div", null, h("dt", null, "OOM kills"), h("dd", { class: did.oom_kills + did.bystander_kills ? "bad" : "" }, did.oom_kills + did.bystander_kills), h("small", null, `${did.bystander_kills} of others`))) : h("p", null, "Under way on this node."),
      kills.length ? [h("h3", null, "Killed"), kills.map(kill => this.killLink(kill))] : null,
      h("h3", null, "Its containers here"),
      pods.length ? pods.slice(0, 60).map(each => h("button", { class: "event", type: "button", onclick: () => this.turn({ open: `container/${each.id}` }) },
        state(each), h("span", null, h("b", { class: "name" }, name(each.pod, 80)), h("small", null, `peak ${bytes(each.startup_peak_bytes ?? each.peak_bytes)}${each.time_to_stable_seconds != null ? `, stable after ${seconds(each.time_to_stable_seconds)}` : ""}`)), h("time", null, clock(each.started!)))) : h("p", { class: "dim" }, "None is kept any more."),
    ];
  }
}

const SCOPES: Record<Kill["scope"], string> = { inside: "one inside it", container: "its own", parent: "its pod's", ancestor: "a group's above", node: "the node's memory", unknown: "not seen" };

function limitOf(kill: Kill): string {
  const of = kill.limit_bytes != null ? ` of ${bytes(kill.limit_bytes)}` : "";
  switch (kill.scope) {
    case "node": return "the node ran out of memory";
    case "inside": return `by a limit${of} inside it`;
    case "unknown": return "by a limit that was not seen";
    default: return `by ${SCOPES[kill.scope]} limit${of}`;
  }
}

/** What the victim itself held, where it is known. */
function victimBytes(kill: Kill): number | null {
  const { victim_anon_bytes: anon, victim_shmem_bytes: shmem, victim_file_bytes: file } = kill;
  return anon == null || shmem == null || file == null ? null : anon + shmem + file;
}

function held(kill: Kill): string {
  const own = victimBytes(kill);
  return own == null ? `its group held ${bytes(kill.usage_bytes)}`
    : `it held ${bytes(own)} (anonymous ${bytes(kill.victim_anon_bytes)}, shared ${bytes(kill.victim_shmem_bytes)}, file ${bytes(kill.victim_file_bytes)}), its group ${bytes(kill.usage_bytes)}`;
}

function by(event: ScaleEvent): string {
  const who: Record<string, string> = { hpa: "by the autoscaler", keda: "by KEDA", manual: "by hand:", unknown: "by" };
  return `${who[event.by_kind] ?? "by"} ${name(event.by_name || "somebody", 80)}`;
}

function verdict(one: Container): string {
  switch (one.state) {
    case "starting": return "no verdict yet";
    case "stable": return one.time_to_stable_seconds != null ? `settled at ${bytes(one.steady_bytes)} after ${seconds(one.time_to_stable_seconds)}` : "settled";
    case "drifting": return `grows by ${bytes((one.drift_bytes_per_second ?? 0) * 60)} a minute and does not settle`;
    case "oscillating": return "swings and does not settle";
    case "running": return "started before the observer";
    default: return one.oom_kills ? "OOM-killed" : one.exit ?? "ended";
  }
}

function number(what: string, then: number | null, now: number | null, known: boolean, why: string): HTMLElement {
  return h("div", null, h("dt", null, what), h("dd", null, bytes(then)), h("small", null, then == null ? "not known yet" : now == null ? `${known ? "none today" : "today's is not known"} · ${why}` : `${bytes(now)} today · ${why}`));
}

function gone(text: string): HTMLElement {
  return h("div", { class: "empty" }, h("p", null, text));
}

/** Ghosts, error band, steady band, curve, and the lines one compares with. */
function paint(plot: uPlot, detail: Detail, seen: boolean): void {
  const { ctx, bbox } = plot;
  const css = colours();
  const ratio = devicePixelRatio;
  const { container: one, workload, earlier, error_bytes, band_bytes } = detail;
  const x = (at: number): number => plot.valToPos(at, "x", true);
  const y = (value: number): number => plot.valToPos(value, "y", true);
  const [at, values] = plot.data as [number[], number[]];
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  const line = (points: [number, number][], colour: string, width: number, dash: number[] = []): void => {
    ctx.strokeStyle = colour;
    ctx.lineWidth = width * ratio;
    ctx.setLineDash(dash.map(each => each * ratio));
    ctx.beginPath();
    points.forEach(([px, py], i) => i ? ctx.lineTo(x(px), y(py)) : ctx.moveTo(x(px), y(py)));
    ctx.stroke();
    ctx.setLineDash([]);
  };
  if (seen) {
    for (const past of earlier) {
      const points = past.curve.kib.flatMap((kib, i): [number, number][] => [[i * past.curve.width_seconds, kib * 1024], [(i + 1) * past.curve.width_seconds, kib * 1024]]);
      ctx.globalAlpha = past.outcome === "oom_killed" ? 0.4 : 0.55;
      line(points, past.outcome === "oom_killed" ? css.alarm! : css.ghost!, 1);
      ctx.globalAlpha = 1;
    }
    if (one.steady_bytes != null && band_bytes != null) {
      const from = x(one.time_to_stable_seconds ?? 0);
      ctx.globalAlpha = 0.18;
      ctx.fillStyle = css.steady!;
      ctx.fillRect(from, y(one.steady_bytes + band_bytes), bbox.left + bbox.width - from, y(one.steady_bytes - band_bytes) - y(one.steady_bytes + band_bytes));
      ctx.globalAlpha = 1;
    }
  }
  // The curve is as near as its error: the band is where it truly was.
  const stepped = at.flatMap((time, i): [number, number][] => i + 1 < at.length ? [[time, values[i]!], [at[i + 1]!, values[i]!]] : [[time, values[i]!]]);
  const path = (shift: number, back: boolean): void => (back ? [...stepped].reverse() : stepped).forEach(([px, py], i) => !back && !i ? ctx.moveTo(x(px), y(Math.max(0, py + shift))) : ctx.lineTo(x(px), y(Math.max(0, py + shift))));
  if (stepped.length) {
    ctx.beginPath();
    path(0, false);
    ctx.lineTo(x(stepped[stepped.length - 1]![0]), y(0));
    ctx.lineTo(x(stepped[0]![0]), y(0));
    ctx.fillStyle = css.fill!;
    ctx.fill();
    ctx.beginPath();
    path(error_bytes, false);
    path(-error_bytes, true);
    ctx.globalAlpha = 0.28;
    ctx.fillStyle = css.curve!;
    ctx.fill();
    ctx.globalAlpha = 1;
    line(stepped, css.curve!, 1.8);
  }
  ctx.font = `${11.5 * ratio}px system-ui, sans-serif`;
  const label = (text: string, px: number, py: number, colour: string, align: CanvasTextAlign = "right"): void => {
    ctx.textAlign = align;
    ctx.textBaseline = "bottom";
    ctx.lineWidth = 3 * ratio;
    ctx.strokeStyle = css.surface!;
    ctx.strokeText(text, px, py);
    ctx.fillStyle = colour;
    ctx.fillText(text, px, py);
  };
  const right = bbox.left + bbox.width - 4 * ratio;
  const level = (value: number | null | undefined, text: string, colour: string, dash: number[]): void => {
    if (value == null || y(value) < bbox.top) return;
    line([[plot.scales.x!.min!, value], [plot.scales.x!.max!, value]], colour, 1.6, dash);
    label(text, right, y(value) - 2 * ratio, colour);
  };
  level(one.limit_bytes, `limit ${bytes(one.limit_bytes)}`, css.limit!, [7, 4]);
  const advised = workload?.advice?.limit_bytes;
  if (advised != null && Math.abs(advised - (one.limit_bytes ?? 0)) > advised * 0.02) level(advised, `advised limit ${bytes(advised)}`, css.limit!, [2, 4]);
  level(workload?.advice?.current_request_bytes, `request ${bytes(workload?.advice?.current_request_bytes)}`, css.request!, [7, 4]);
  if (seen && one.time_to_stable_seconds != null) {
    const px = x(one.time_to_stable_seconds);
    line([[one.time_to_stable_seconds, 0], [one.time_to_stable_seconds, plot.scales.y!.max!]], css.steady!, 1.4, [3, 3]);
    label(`t* ${seconds(one.time_to_stable_seconds)}`, px + 5 * ratio, bbox.top + bbox.height - 4 * ratio, css.steady!, "left");
  }
  if (seen && one.startup_peak_bytes != null && one.startup_peak_seconds != null) {
    const [px, py] = [x(one.startup_peak_seconds), y(one.startup_peak_bytes)];
    ctx.beginPath();
    ctx.arc(px, py, 4 * ratio, 0, 2 * Math.PI);
    ctx.fillStyle = css.curve!;
    ctx.fill();
    ctx.strokeStyle = css.surface!;
    ctx.lineWidth = 2 * ratio;
    ctx.stroke();
    const late = px > bbox.left + bbox.width * 0.6;
    label(`peak ${bytes(one.startup_peak_bytes)}`, px + (late ? -8 : 8) * ratio, py - 2 * ratio, css.curve!, late ? "right" : "left");
  }
  ctx.restore();
}
