// A recording that nobody made: so many containers over so many seconds, for measurements of the page.
import { createWriteStream } from "node:fs";
import { once } from "node:events";

const MIB = 1 << 20;

/**
 * `containers` start one after the other within `spread` seconds; each climbs to a peak, falls to its level, and is
 * read every `every` seconds then; in `busy` of them usage moves each second of the last `tail`.
 */
export async function write(file, { containers, seconds, spread, every, tail = seconds, busy = 0 }) {
  const out = createWriteStream(file);
  const events = [];
  const at = (second, what) => events.push([second, what]);
  const level = i => (24 + i % 40) * MIB;
  const limit = i => (96 + i % 7 * 64) * MIB;
  const reading = (i, usage) => ({ memory: { cgroup: 1000 + i, reading: { usage, watermark: 2 * level(i), limit: { bytes: limit(i) }, stat: { anon: usage, inactive_file: 0, faults: 100, major_faults: 0 }, events: { max: 0, oom_kill: 0 }, swap: 0 } } });
  for (let i = 0; i < containers; i++) {
    const [cgroup, path, begin] = [1000 + i, `/system.slice/service-${String(i).padStart(4, "0")}.service`, 2 + i * spread / containers];
    at(begin, { cgroup_made: { cgroup, path } });
    at(begin + 0.01, { cgroup_attached: { cgroup, path, pid: 5000 + i } });
    at(begin + 0.02, reading(i, MIB));
    for (let step = 1; step <= 20; step++) {
      const usage = Math.floor(level(i) * (step <= 14 ? 2 * step / 14 : 1));
      at(begin + 0.02 + step * 0.1, { usage: { cgroup, usage, watermark: Math.max(usage, level(i) * (step < 14 ? 2 * step / 14 : 2)) | 0 } });
    }
    for (let second = begin + 3; second < seconds; second += every) at(second, reading(i, level(i)));
    if (i < busy) for (let second = Math.max(begin + 4, seconds - tail); second < seconds; second++) at(second, { usage: { cgroup, usage: level(i) + (second + i) % 8 * 2 * MIB | 0, watermark: 2 * level(i) } });
  }
  for (let second = 1; second < seconds; second++) {
    // As often as it is kept that far back.
    if (seconds - second > 600 && second % 5) continue;
    at(second, { node: { available: 12000 * MIB + second % 100 * MIB, free: 9000 * MIB, pressure: { some_ns: second * 1e6, full_ns: second * 1e5 }, faults: second * 100, major_faults: 0, oom_kills: 0, direct_scanned_pages: 0 } });
    at(second, "tick");
  }
  events.sort((a, b) => a[0] - b[0]);
  const line = (second, what) => `${JSON.stringify({ at: Math.round((1000 + second) * 1e9), what })}\n`;
  out.write(line(0, { host: { observer_version: "0.1.0", kernel: "synthetic", cgroup: "v2", wall_offset_ns: 1700000000000000000, page_size: 4096, cpus: 8, memory_total: 16384 * MIB, booted: 1700000000, retention_ns: 300000000000 } }));
  for (const [second, what] of events) if (!out.write(line(second, what))) await once(out, "drain");
  out.end();
  await once(out, "finish");
}
