// What the page knows: the state, kept up to date by deltas, and the node's history. Nothing here draws.

import { ask, Container, Delta, early, everything, History, keyOf, Load, Refused, report, Startup, State, Workload } from "./api";

export type Connection = "loading" | "connected" | "lost" | "forbidden";

/** Without a delta for this long the daemon, or the way to it, hangs. */
const SILENT_MS = 8000;
const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const FINDINGS = 200;

export class Store {
  state: State | null = null;
  containers = new Map<string, Container>();
  workloads = new Map<string, Workload>();
  startups = new Map<number, Startup>();
  history: History | null = null;
  connection: Connection = "loading";
  error = "";
  /** Grows with each change, so that a view knows whether to draw. */
  version = 0;
  private stream: EventSource | null = null;
  private tries = 0;
  private heard = 0;
  private from = 0;
  private first: Promise<Load> | null = early;

  constructor(private readonly changed: () => void) {
    setInterval(() => this.check(), 1000);
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.check(); });
  }

  get now(): number { return this.state?.status.now ?? 0; }

  async load(): Promise<void> {
    try {
      const asked = this.first ?? everything(this.from);
      this.first = null;
      const [state, history, startups] = await asked;
      this.state = state;
      this.fill(history, startups);
      this.containers = new Map(state.containers.map(one => [one.id, one]));
      this.workloads = new Map(state.workloads.map(one => [one.key, one]));
      this.connection = "connected";
      this.error = "";
      this.tell();
      if (!report) this.listen(state.moment);
    } catch (error) {
      this.failed(error);
    }
  }

  /** Start-ups and the node's history back to this time. */
  async backfill(from: number): Promise<void> {
    this.from = from;
    const [history, startups] = await Promise.all([ask<History>(`history?from=${from}`), ask<Startup[]>(`startups?from=${from}`)]);
    this.fill(history, startups);
    this.tell();
  }

  private fill(history: History, startups: Startup[]): void {
    this.history = history;
    this.startups = new Map(startups.map(one => [one.startup, one]));
  }

  private listen(after: number): void {
    this.stream?.close();
    const stream = new EventSource(`api/v1/stream?after=${after}`);
    this.stream = stream;
    this.heard = Date.now();
    stream.addEventListener("delta", event => {
      this.heard = Date.now();
      this.tries = 0;
      this.take(JSON.parse((event as MessageEvent<string>).data) as Delta);
    });
    stream.addEventListener("reset", () => { stream.close(); void this.load(); });
    // Each connection has an end; the browser comes back and names the last delta it had.
    let errors = 0;
    stream.addEventListener("open", () => { this.heard = Date.now(); errors = 0; });
    stream.addEventListener("error", () => {
      errors++;
      if (stream.readyState !== EventSource.CLOSED && errors < 3) return;
      stream.close();
      if (this.stream === stream) this.failed(new Error("it does not answer"));
    });
  }

  /** Something ended badly: learns why, and tries again. */
  private failed(error: unknown): void {
    this.stream?.close();
    this.stream = null;
    const refused = error instanceof Refused && (error.status === 401 || error.status === 403);
    if (refused) {
      this.connection = "forbidden";
      this.error = (error as Refused).message;
    } else if (error || this.tries > 0) {
      this.connection = "lost";
      this.error = error instanceof Error ? error.message : "";
    }
    this.tell();
    const pause = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)] ?? 8000;
    this.tries++;
    setTimeout(() => void this.load(), pause);
  }

  private check(): void {
    const live = this.connection === "connected" && this.state?.status.live;
    if (live && this.stream && Date.now() - this.heard > SILENT_MS) this.failed(new Error("it does not answer"));
  }

  private take(delta: Delta): void {
    const state = this.state;
    if (!state) return;
    this.connection = "connected";
    state.moment = delta.moment;
    state.status = delta.status;
    state.node = delta.node;
    for (const one of delta.containers) this.containers.set(one.id, one);
    for (const [id, usage, workingSet, peak] of delta.usage) {
      const one = this.containers.get(id);
      if (one) [one.usage_bytes, one.working_set_bytes, one.peak_bytes] = [usage, workingSet, peak];
    }
    for (const id of delta.gone) this.containers.delete(id);
    for (const one of delta.workloads) this.workloads.set(one.key, one);
    for (const key of delta.workloads_gone) this.workloads.delete(key);
    for (const one of delta.startups) this.startups.set(one.startup, one);
    for (const kill of delta.kills) {
      const at = state.kills.findIndex(known => known.kill === kill.kill);
      if (at < 0) state.kills.push(kill); else state.kills[at] = kill;
    }
    if (delta.scale_events) state.scale_events = delta.scale_events;
    state.findings.push(...delta.findings);
    state.findings.splice(0, Math.max(0, state.findings.length - FINDINGS));
    this.extend(delta);
    this.tell();
  }

  /** The last second, into the history that is shown. */
  private extend(delta: Delta): void {
    const history = this.history;
    const now = delta.status.now;
    for (const startup of this.startups.values()) {
      const container = this.containers.get(startup.id);
      if (startup.seconds != null || !container || container.ended != null) continue;
      let at = Math.floor((now - startup.started) / startup.curve.width_seconds);
      if (at < 0 || at > 100_000 || !startup.curve.width_seconds) continue;
      while (at >= 480) { halve(startup.curve); at >>= 1; }
      const kib = startup.curve.kib;
      while (kib.length <= at) kib.push(kib[kib.length - 1] ?? 0);
      kib[at] = Math.max(kib[at] ?? 0, Math.floor(container.usage_bytes / 1024));
    }
    if (!history || !history.width_seconds) return;
    const span = Math.floor(now / history.width_seconds) * history.width_seconds;
    const node = delta.node;
    let last = history.at.length - 1;
    if (history.at[last] !== span) {
      history.at.push(span);
      history.available_bytes.push(node.available_bytes);
      history.pods_available_bytes.push(node.pods_available_bytes);
      history.starting.push(0);
      history.starting_bytes.push(0);
      history.forecast_bytes.push(0);
      history.stampede.push(false);
      history.waiting_seconds.push(0);
      history.stalled_seconds.push(0);
      history.oom_kills.push(0);
      last++;
    }
    const least = (a: number | null | undefined, b: number | null): number | null => a == null ? b : b == null ? a : Math.min(a, b);
    const most = (list: number[], value: number): void => { list[last] = Math.max(list[last] ?? 0, value); };
    history.available_bytes[last] = least(history.available_bytes[last], node.available_bytes);
    history.pods_available_bytes[last] = least(history.pods_available_bytes[last], node.pods_available_bytes);
    most(history.starting, node.starting);
    most(history.starting_bytes, node.starting_bytes);
    most(history.forecast_bytes, node.forecast_bytes);
    history.stampede[last] ||= node.stampede;
    history.waiting_seconds[last] = (history.waiting_seconds[last] ?? 0) + (node.waiting_ratio ?? 0);
    history.stalled_seconds[last] = (history.stalled_seconds[last] ?? 0) + (node.stalled_ratio ?? 0);
    if (history.at.length > 4000) for (const list of Object.values(history)) if (Array.isArray(list)) list.shift();
  }

  /** The containers of a workload, those that live first, then the newest. */
  of(key: string): Container[] {
    const all = [...this.containers.values()].filter(one => keyOf(one) === key || (!one.pod && one.workload === key));
    return all.sort((a, b) => Number(a.ended != null) - Number(b.ended != null) || (b.started ?? 0) - (a.started ?? 0));
  }

  private tell(): void {
    this.version++;
    this.changed();
  }
}

/** Half the spans, each twice as long and as high as the higher. */
function halve(curve: Startup["curve"]): void {
  const kib: number[] = [];
  for (let i = 0; i < curve.kib.length; i += 2) kib.push(Math.max(curve.kib[i] ?? 0, curve.kib[i + 1] ?? 0));
  curve.kib = kib;
  curve.width_seconds *= 2;
}
