const bytes = n => { if (n == null) return ""; for (const u of ["B", "KiB", "MiB", "GiB", "TiB"]) { if (n < 1000 || u == "TiB") return (n < 10 ? n.toFixed(2) : n < 100 ? n.toFixed(1) : n.toFixed(0)).replace(/\.0+$/, "") + " " + u; n /= 1024 } };
const secs = s => s == null ? "" : (s < 1 ? s.toFixed(2) : s < 20 ? s.toFixed(1) : s.toFixed(0)) + " s";
const esc = s => String(s).replace(/[&<>"]/g, c => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }[c]));
const name = c => (c.pod ? c.namespace + "/" + c.pod + "/" : "") + c.container;
const why = d => d ? `<span title="${esc((d.evidence || []).join("; "))}">${esc(d.cause.replaceAll("_", " "))}</span>${d.confidence < 0.9 ? ` <span class=dim>${(100 * d.confidence).toFixed(0)} %</span>` : ""}` : "";
function scaling(s) {
  const e = s.event, d = s.ended, kills = s.oom_kills.length;
  return `<tr><td>${esc(e.namespace + "/" + e.workload)}<td class=n>${e.from == null ? "" : e.from + " → "}${e.to}<td>${esc(e.by.kind + " " + e.by.name)}${e.by.reason ? ` <span class=dim>${esc(e.by.reason)}</span>` : ""}` + (d ? `<td class=n>${d.pods}<td class=n>${d.starting_max}<td class=n>${bytes(d.peak_sum)}<td class=n>${bytes(d.overshoot_sum)}<td class=n>${secs(d.stall_seconds)}<td class="n ${kills ? "oom" : ""}">${kills || ""}<td class=n>${d.settled_seconds == null ? "not all did" : secs(d.settled_seconds)}` : `<td class=dim colspan=5>under way<td class="n ${kills ? "oom" : ""}">${kills || ""}<td>`);
}
function curve(c, now) {
  const W = 260, H = 44, p = c.curve.filter(q => q[0] >= 0); if (!p.length) return "";
  const end = c.state == "ended" ? p[p.length - 1][0] : Math.max(now, p[p.length - 1][0]), t = Math.max(end, .5);
  const top = Math.max(...p.map(q => q[1]), c.startup_peak || 0, c.limit && c.limit < 3 * c.peak ? c.limit : 0) * 1.05 || 1;
  const x = s => (s / t * W).toFixed(1), y = b => (H - b / top * H).toFixed(1);
  let d = "M0," + H, last = 0; for (const [s, b] of p) { d += `L${x(s)},${y(last)}L${x(s)},${y(b)}`; last = b } d += `L${x(end)},${y(last)}L${x(end)},${H}Z`;
  const line = (v, k) => v && v <= top ? `<line class="${k}" x1="0" x2="${W}" y1="${y(v)}" y2="${y(v)}"/>` : "";
  return `<svg width="${W}" height="${H}" role="img" aria-label="memory since start, ${secs(t)} wide"><path class="curve" d="${d}"/>${line(c.limit, "limit")}${line(c.steady, "steady")}</svg>`;
}
function typical(a) {
  const t = a.facts.typical, W = 200, H = 44; if (!t) return "";
  const cur = a.facts.current, set = a.advice.numbers, adv = set.limit && Object.values(set.limit)[0];
  const most = Math.max(...t.highest), top = Math.max(most, ...[cur.limit, adv].filter(v => v && v < 3 * most)) * 1.05 || 1;
  const y = b => (H - b / top * H).toFixed(1), path = l => l.map((b, i) => `${i ? "L" : "M"}${(i / (l.length - 1) * W).toFixed(1)},${y(b)}`).join("");
  const line = (v, k, what) => v && v <= top ? `<line class="${k}" x1="0" x2="${W}" y1="${y(v)}" y2="${y(v)}"><title>${what} ${bytes(v)}</title></line>` : "";
  return `<svg width="${W}" height="${H}" role="img" aria-label="start-ups of ${secs(t.span * t.highest.length)}"><path class="curve" d="${path(t.highest)}L${W},${H}L0,${H}Z"/><path class="median" d="${path(t.median)}"/>${line(cur.limit, "limit", "limit")}${line(adv, "limit advised", "limit advised")}${line(cur.request, "steady", "request")}${line(set.request, "steady advised", "request advised")}</svg>`;
}
function advised(a) {
  const f = a.facts, n = a.advice.numbers, trial = n.limit && n.limit.trial ? "?" : "", limit = n.limit && Object.values(n.limit)[0];
  const change = (now, then, mark = "") => { const was = now === undefined ? "" : now == null ? "none" : bytes(now); return then ? `${was}${was ? " → " : ""}<b>${bytes(then)}${mark}</b>` : was };
  const checks = a.advice.verdicts.filter(v => v.grade == "fail" || v.grade == "warn").sort((x, y) => x.grade > y.grade ? 1 : -1).map(v => `<span class="${v.grade}" title="${esc(v.evidence)}">${esc(v.check.replaceAll("_", " "))}</span>`).join(" ");
  const who = f.namespace ? `${f.namespace}/${f.workload_type}/${f.workload}:${f.container}` : f.workload;
  return `<tr><td>${esc(who)}<td>${typical(a)}<td class=n>${f.startups.count}<td class=n>${bytes(f.steady && f.steady.p95)}<td class=n>${bytes(n.worst)}<td class=n>${change(f.current.request, n.request)}<td class=n>${change(f.current.limit, limit, trial)}<td>${checks || `<span class=dim>${esc(n.missing || "nothing to complain of")}</span>`}`;
}
async function advise() {
  let all; try { all = await (await fetch("api/advice")).json() } catch (e) { return } // draw() says that it does not answer
  const grade = a => Math.max(...a.advice.verdicts.map(v => ({ fail: 2, warn: 1 }[v.grade] || 0)));
  document.getElementById("advising").hidden = !all.length;
  document.getElementById("advice").innerHTML = all.sort((a, b) => grade(b) - grade(a)).slice(0, 100).map(advised).join("");
}
async function draw() {
  let s; try { s = await (await fetch("api/state")).json() } catch (e) { document.getElementById("probes").textContent = "the observer does not answer"; return }
  document.getElementById("probes").textContent = s.probes.map(p => p.probe + ": " + Object.keys(p.outcome)[0]).join(" · ");
  const n = s.node, r = n && n.reading; let latest = 0; for (const c of Object.values(s.containers)) if (c.started) for (const q of c.curve.slice(-1)) latest = Math.max(latest, c.started / 1e9 + q[0]);
  if (n) document.getElementById("node").innerHTML = `<span>available <b>${bytes(r && r.available)}</b></span>${r && r.pods_available < r.available ? `<span>for pods <b>${bytes(r.pods_available)}</b></span>` : ""}<span>starting now <b>${n.starting}</b></span><span>they hold <b>${bytes(n.starting_usage)}</b></span><span>and will take <b>${bytes(n.forecast.growth)}</b> more${n.forecast.unknown ? ` (${n.forecast.unknown} unknown)` : ""}</span>${n.stampede ? '<span class="oom">stampede</span>' : ""}<span>containers <b>${n.containers}</b></span><span>cgroups <b>${n.cgroups}</b></span>` + (r && r.pressure ? `<span>stalled <b>${secs(r.pressure.some_ns / 1e9)}</b></span>` : "<span>no PSI on this kernel</span>");
  const order = { drifting: 0, oscillating: 1, starting: 2, stable: 3, running: 4, ended: 5 };
  const rows = Object.values(s.containers).sort((a, b) => order[a.state] - order[b.state] || b.usage - a.usage).slice(0, 200);
  document.getElementById("rows").innerHTML = rows.map(c => `<tr><td>${esc(name(c))}<td><span class="state ${c.state}">${c.state}</span><td>${why(c.decision)}<td>${curve(c, c.started ? latest - c.started / 1e9 : 0)}<td class=n>${c.state == "ended" ? "" : bytes(c.usage)}<td class=n>${bytes(c.startup_peak)}${c.startup_peak ? ` <span class=dim>at ${secs(c.startup_peak_seconds)}</span>` : ""}<td class=n>${bytes(c.steady)}<td class=n>${c.overshoot ? c.overshoot.toFixed(2) : ""}<td class=n>${secs(c.time_to_stable_seconds)}<td class=n>${bytes(c.limit)}<td class="n ${c.oom_kills ? "oom" : ""}">${c.oom_kills || ""}`).join("");
  document.getElementById("scaling").hidden = !s.scale_events.length;
  document.getElementById("events").innerHTML = s.scale_events.slice().reverse().map(scaling).join("");
  document.getElementById("news").innerHTML = s.news.slice(-40).reverse().map(f => `<li${f.alarm ? ' class="oom"' : ""}>${esc(f.text)}</li>`).join("");
}
draw(); setInterval(draw, 1000); advise(); setInterval(advise, 5000);
