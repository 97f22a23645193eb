// The types of docs/openapi.yaml that the page reads.

export interface Names { id: string; namespace: string; pod: string; container: string; workload: string; workload_type: string }
export interface Cause { cause: string; confidence: number; evidence: string[]; competing: string[] }
export interface Container extends Names {
  state: string; started: number | null; ended: number | null; exit: string | null; cause: Cause | null;
  usage_bytes: number; working_set_bytes: number; peak_bytes: number; limit_bytes: number | null;
  startup_peak_bytes: number | null; startup_peak_seconds: number | null; time_to_stable_seconds: number | null;
  steady_bytes: number | null; overshoot: number | null; drift_bytes_per_second: number | null; oom_kills: number;
  limit_ahead: { limit: string; at: number; bytes: number; confidence: number; by: string } | null;
  loan: { since: number; deadline_seconds: number; steady_bytes: number; need_bytes: number; requested_bytes: number; lent_bytes: number } | null;
}
export interface Curve { width_seconds: number; kib: number[] }
export interface Startup extends Names {
  startup: number; started: number; seconds: number | null; outcome: string; peak_bytes: number;
  time_to_stable_seconds: number | null; steady_bytes: number | null; curve: Curve;
}
export interface Check { check: string; grade: string; evidence: string }
export interface Advice {
  request_bytes: number | null; limit_bytes: number | null; limit_is_trial: boolean; limit_reason: string | null; current_request_known: boolean; current_limit_known: boolean; current_request_bytes: number | null;
  current_limit_bytes: number | null; worst_bytes: number | null; missing: string | null; checks: Check[];
}
export interface Workload {
  key: string; namespace: string; workload: string; workload_type: string; container: string;
  risk: { level: string; score: number; why: string };
  containers: number; starting: number; startups: number; peak_bytes: number; oom_kills: number; limit_bytes: number | null;
  advice: Advice | null;
}
export interface ScaleEvent {
  namespace: string; workload: string; workload_type: string; at: number; from: number | null; to: number;
  by_kind: string; by_name: string; by_reason: string; kills: number[];
  outcome: null | {
    containers: number; starting_max: number; peak_sum_bytes: number; overshoot_sum_bytes: number; oom_kills: number;
    bystander_kills: number; stall_seconds: number; settled_seconds: number | null;
  };
}
export interface Kill {
  kill: number; at: number; container: Names | null; victim_pid: number; victim_command: string;
  scope: "inside" | "container" | "parent" | "ancestor" | "node" | "unknown";
  victim_anon_bytes: number | null; victim_shmem_bytes: number | null; victim_file_bytes: number | null;
  usage_bytes: number; peak_bytes: number; limit_bytes: number | null; invoker_command: string; invoker: Names | null;
  starting: boolean; age_seconds: number | null; kills: number;
  also_starting: (Names & { usage_bytes: number })[]; also_starting_count: number;
}
export interface Finding { at: number; text: string; alarm: boolean }
export interface Probe { probe: string; required: boolean; status: string; hook: string | null; why: string | null; lost: string | null }
export interface Node {
  memory_total_bytes: number; available_bytes: number | null; pods_available_bytes: number | null; containers: number;
  cgroups: number; starting: number; starting_bytes: number; forecast_bytes: number; forecast_in_seconds: number;
  forecast_unknown: number; stampede: boolean; waiting_ratio: number | null; stalled_ratio: number | null;
}
export interface Status {
  now: number; live: boolean; recording: string | null; ready: boolean; missing: string[];
  kubernetes: { state: string; node: string; why: string } | null;
  dropped: Record<string, number>; streams: Record<string, number>;
}
export interface State {
  moment: number; status: Status; host: { observer_version: string; kernel: string; cpus: number; memory_total_bytes: number } | null;
  probes: Probe[]; node: Node; containers: Container[]; workloads: Workload[]; scale_events: ScaleEvent[]; kills: Kill[]; findings: Finding[];
}
export interface Delta {
  moment: number; status: Status; node: Node; containers: Container[]; usage: [string, number, number, number][]; gone: string[];
  workloads: Workload[]; workloads_gone: string[]; startups: Startup[]; kills: Kill[]; scale_events: ScaleEvent[] | null; findings: Finding[];
}
export interface History {
  width_seconds: number; at: number[]; available_bytes: (number | null)[]; pods_available_bytes: (number | null)[]; starting: number[];
  starting_bytes: number[]; forecast_bytes: number[]; stampede: boolean[]; waiting_seconds: number[]; stalled_seconds: number[]; oom_kills: number[];
}
export interface Detail {
  container: Container; workload: Workload | null; curve: Curve; error_bytes: number; band_bytes: number | null;
  history: { width_seconds: number; at: number[]; kib: number[] }; earlier: Startup[];
}

/** What `observer report` put into this file, if it is one: everything that is asked for. */
export interface Report {
  summary: string; stories: { title: string; lead: string; text: string; workload: string | null }[]; notes: string[];
  span_seconds: number; left_out: Record<string, number>; state: State; startups: Startup[];
  histories: { from: number; history: History }[];
  curves: Record<string, Pick<Detail, "curve" | "error_bytes" | "band_bytes" | "history"> & { earlier: number[] }>;
}
const embedded = document.getElementById("report")?.textContent;
export const report = embedded ? JSON.parse(embedded) as Report : null;

function reported(report: Report, path: string): unknown {
  const [what, id = ""] = path.split(/[/?]/);
  switch (what) {
    case "state": return report.state;
    case "startups": return report.startups;
    case "history": {
      const from = Number(path.split("from=")[1]);
      const { histories } = report;
      return structuredClone((histories.find(one => one.from <= from) ?? histories.at(-1))?.history);
    }
    default: {
      const [curves, container] = [report.curves[id], report.state.containers.find(one => one.id === id)];
      if (!curves || !container) throw new Refused(404, container ? "The curve of this container did not fit into the report." : "This container is not in the report: it ended early in a long recording, or did not fit.");
      const numbers = new Set(curves.earlier);
      const workload = report.state.workloads.find(one => one.key === keyOf(container)) ?? null;
      return { ...curves, container, workload, earlier: report.startups.filter(one => numbers.has(one.startup)).reverse() };
    }
  }
}

export class Refused extends Error {
  constructor(readonly status: number, message: string) { super(message); }
}

export async function ask<T>(path: string): Promise<T> {
  if (report) return reported(report, path) as T;
  const answer = await fetch(`api/v1/${path}`, { cache: "no-store" });
  if (!answer.ok) {
    const text = await answer.text();
    let error = text.slice(0, 300);
    try { error = (JSON.parse(text) as { error?: string }).error ?? error; } catch { /* it is plain text */ }
    throw new Refused(answer.status, error || answer.statusText);
  }
  return await answer.json() as T;
}

/** As the observer writes it: one container of one workload. */
export function keyOf(of: Names): string {
  return of.namespace ? `${of.namespace}/${of.workload_type}/${of.workload}:${of.container}` : of.workload;
}

export type Load = [State, History, Startup[]];

/** All that is drawn at first, in one go. */
export function everything(from: number): Promise<Load> {
  return Promise.all([ask<State>("state"), ask<History>(`history?from=${from}`), ask<Startup[]>(`startups?from=${from}`)]);
}

/** Asked for before anything of the page is built: the answers are on their way meanwhile. */
export const early = everything(0);
