// Start-ups over time -> a stack: for each moment what those starting held, by workload. Pure.

import { keyOf, Startup } from "./api";

/** Workloads with a colour of their own; the rest is one band. */
export const COLOURS = 6;

export interface Band { key: string; label: string; bytes: Float64Array; most: number; startups: number; parts: Float64Array[] }

/** Start-ups in sight that are still told apart within their band. */
const APART = 120;

/** `at`: where each cell begins; `width`: of a cell, seconds. Highest in each cell, so that a spike is seen from afar. */
export function stack(startups: Iterable<Startup>, at: ArrayLike<number>, width: number, now: number): Band[] {
  const bands = new Map<string, Band>();
  const cells = at.length;
  if (!cells) return [];
  let count = 0;
  for (const startup of startups) {
    const end = startup.seconds == null ? now : startup.started + startup.seconds;
    const first = lower(at, startup.started - width);
    if (end < at[0]! || startup.started > at[cells - 1]! + width) continue;
    const key = keyOf(startup);
    let band = bands.get(key);
    if (!band) bands.set(key, band = { key, label: startup.workload || key, bytes: new Float64Array(cells), most: 0, startups: 0, parts: [] });
    band.startups++;
    const { kib, width_seconds: span } = startup.curve;
    if (!kib.length || !span) continue;
    const part = ++count <= APART ? new Float64Array(cells) : null;
    if (part) band.parts.push(part);
    for (let i = Math.max(0, first); i < cells && at[i]! < end; i++) {
      const from = Math.max(0, Math.floor((at[i]! - startup.started) / span));
      const until = Math.min(kib.length - 1, Math.floor((Math.min(at[i]! + width, end) - startup.started) / span));
      let high = 0;
      for (let j = Math.min(from, kib.length - 1); j <= until; j++) high = Math.max(high, kib[j]!);
      if (at[i]! + width <= startup.started) continue;
      band.bytes[i]! += high * 1024;
      if (part) part[i] = high * 1024;
    }
  }
  if (count > APART) for (const band of bands.values()) band.parts = [];
  for (const band of bands.values()) band.most = band.bytes.reduce((a, b) => Math.max(a, b), 0);
  const all = [...bands.values()].filter(band => band.most > 0).sort((a, b) => b.most - a.most);
  if (all.length <= COLOURS) return all;
  const rest: Band = { key: "", label: `${all.length - COLOURS + 1} others`, bytes: new Float64Array(cells), most: 0, startups: 0, parts: [] };
  for (const band of all.splice(COLOURS - 1)) {
    band.bytes.forEach((value, i) => { rest.bytes[i]! += value; });
    rest.startups += band.startups;
    rest.parts.push(...band.parts);
  }
  rest.most = rest.bytes.reduce((a, b) => Math.max(a, b), 0);
  return [...all, rest];
}

/** The first index whose value is not below. */
export function lower(list: ArrayLike<number>, value: number): number {
  let [from, until] = [0, list.length];
  while (from < until) {
    const middle = (from + until) >> 1;
    if (list[middle]! < value) from = middle + 1; else until = middle;
  }
  return from;
}
