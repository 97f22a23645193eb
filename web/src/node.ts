// The node over time: start-ups stacked under the room there was, what they will still take, pressure, and marks for scale
// events and kills.

import uPlot from "uplot";
import { History, report } from "./api";
import { Band, lower, stack } from "./bands";
import { h, show } from "./dom";
import { bytes, clock, name, percent, plural } from "./format";
import { colours } from "./palette";
import { Store } from "./store";

const DAY = 86400;
export const RANGES: [string, number][] = [["15 min", 900], ["1 h", 3600], ["6 h", 21600], ["24 h", DAY]];
if (report && report.span_seconds > DAY) RANGES.push(["all", Math.ceil(report.span_seconds)]);
const HEIGHT = 260;
/** Marks nearer than this share a button. */
const NEAR_PX = 16;

interface Mark { at: number; kind: "kill" | "scale"; href: string; text: string }

export class NodeChart {
  readonly element: HTMLElement;
  range = 0;
  whole = false;
  private readonly marks = h("div", { class: "marks" });
  private readonly canvas = h("div", { class: "plot" });
  private readonly legend = h("div", { class: "legend" });
  private readonly hover = h("div", { class: "hover", role: "status" });
  private readonly above = h("div", { class: "above" });
  private plot: uPlot | null = null;
  private bands: Band[] = [];
  private base: number[] = [];
  private room: (number | null)[] = [];
  /** What is in sight of it. */
  private history: History | null = null;
  private drawn = -1;

  constructor(private readonly store: Store, private readonly turn: (change: Record<string, string>) => void) {
    this.element = h("section", { class: "card node", "aria-label": "The node over time" },
      h("header", null, h("h2", null, "Start-ups on this node"), this.controls()),
      this.marks, this.canvas, this.above, h("footer", null, this.legend, this.hover));
    new ResizeObserver(() => { this.drawn = -1; this.draw(); }).observe(this.canvas);
  }

  private controls(): HTMLElement {
    const ranges = RANGES.map(([label, span], i) => h("button", {
      type: "button", "data-range": span, title: `Key ${i + 1}`, onclick: () => this.turn({ range: String(span) }),
    }, label));
    const scales = [["start-ups", ""], ["whole node", "node"]].map(([label, scale]) => h("button", {
      type: "button", "data-scale": scale, title: "Key s", onclick: () => this.turn({ scale: scale! }),
    }, label!));
    return h("div", { class: "controls" },
      h("div", { class: "segmented", role: "group", "aria-label": "Scale" }, scales),
      h("div", { class: "segmented", role: "group", "aria-label": "Span of time" }, ranges));
  }

  draw(): void {
    for (const button of this.element.querySelectorAll<HTMLElement>("[data-range]")) button.setAttribute("aria-pressed", String(Number(button.dataset.range) === this.range));
    for (const button of this.element.querySelectorAll<HTMLElement>("[data-scale]")) button.setAttribute("aria-pressed", String((button.dataset.scale === "node") === this.whole));
    const known = this.store.history;
    const width = this.canvas.clientWidth;
    if (!known || !known.at.length || width < 50 || this.drawn === this.store.version) return;
    this.drawn = this.store.version;
    const now = Math.max(this.store.now, known.at[known.at.length - 1]!);
    const total = this.store.state?.node.memory_total_bytes ?? 0;
    // What is known of a shorter time fills the width.
    const from = Math.max(now - this.range, Math.min(known.at[0]!, now - 20));
    const history = this.history = since(known, from);
    const cells = history.at;
    this.bands = stack(this.store.startups.values(), cells, history.width_seconds, now);
    const sum = cells.map((_, i) => this.bands.reduce((all, band) => all + band.bytes[i]!, 0));
    // Seconds between looks can be higher than what was counted at the look.
    const starting = cells.map((_, i) => Math.max(sum[i]!, 0));
    const left = (i: number): number | null => {
      const [all, pods] = [history.available_bytes[i], history.pods_available_bytes[i]];
      return all == null ? null : pods == null ? all : Math.min(all, pods);
    };
    this.base = cells.map((_, i) => this.whole ? Math.max(0, total - (history.available_bytes[i] ?? total) - history.starting_bytes[i]!) : 0);
    this.room = cells.map((_, i) => { const free = left(i); return free == null ? null : this.base[i]! + history.starting_bytes[i]! + free; });
    const ahead = cells.map((_, i) => this.base[i]! + starting[i]! + history.forecast_bytes[i]!);
    const data = [cells, ahead, this.room] as unknown as uPlot.AlignedData;
    const taken = Math.max(...ahead.filter((_, i) => cells[i]! >= from), 16 << 20);
    const rooms = this.room.filter((value, i): value is number => value != null && cells[i]! >= from);
    const least = rooms.length ? Math.min(...rooms) : Infinity;
    const top = this.whole ? total * 1.04 : least < taken * 3 ? Math.max(taken, Math.min(Math.max(...rooms), taken * 3)) * 1.12 : taken * 1.3;
    show(this.above, !this.whole && least > top && Number.isFinite(least) ? h("span", null, `↑ room: ${bytes(least)} and more, above this scale`) : null);

    if (!this.plot) this.create(width, data);
    const plot = this.plot!;
    if (plot.width !== width) plot.setSize({ width, height: HEIGHT });
    plot.batch(() => {
      plot.setData(data, false);
      plot.setScale("x", { min: from, max: now });
      plot.setScale("y", { min: 0, max: top });
    });
    // What a test compares the picture with.
    Object.assign(this.canvas.dataset, { top: String(top), from: String(from), until: String(now) });
    this.drawLegend(now);
    this.drawMarks();
  }

  private create(width: number, data: uPlot.AlignedData): void {
    const css = (): Record<string, string> => colours();
    const font = "11.5px system-ui, sans-serif";
    const axis: uPlot.Axis = { font, stroke: () => css().dim!, grid: { stroke: () => css().grid!, width: 1 }, ticks: { show: false } };
    this.plot = new uPlot({
      width, height: HEIGHT, legend: { show: false }, padding: [6, 26, 0, 0],
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
      scales: { x: { time: true }, y: { auto: false } },
      axes: [
        { ...axis, space: 90, size: 30, values: (_, splits) => splits.map(at => clock(at).slice(0, at % 60 ? 8 : 5)) },
        { ...axis, size: 68, space: 44, splits: (_, __, min, max) => steps(min, max), values: (_, splits) => splits.map(value => value ? bytes(value) : "0") },
      ],
      series: [{}, { paths: () => null, points: { show: false } }, { paths: () => null, points: { show: false } }],
      hooks: {
        drawAxes: [plot => this.paint(plot)],
        setCursor: [plot => this.point(plot.cursor.idx ?? null)],
        setScale: [(_, key) => { if (key === "x") this.drawMarks(); }],
      },
    }, data, this.canvas);
  }

  /** Stack, forecast, room and pressure, on uPlot's canvas. */
  private paint(plot: uPlot): void {
    const history = this.history;
    if (!history) return;
    const { ctx, bbox } = plot;
    const css = colours();
    const ratio = devicePixelRatio;
    const cells = plot.data[0] as number[];
    const x = (at: number): number => plot.valToPos(at, "x", true);
    const y = (value: number): number => plot.valToPos(value, "y", true);
    const width = history.width_seconds;
    // A cell holds until the next one; where seconds are missing between them, nothing is known.
    const end = (i: number): number => { const next = cells[i + 1]; return next != null && next - cells[i]! <= 3.5 * width ? next : cells[i]! + width; };
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = css.alarm!;
    ctx.globalAlpha = 0.1;
    for (let i = 0; i < cells.length; i++) if (history.stampede[i]) ctx.fillRect(x(cells[i]!), bbox.top, x(end(i)) - x(cells[i]!) + 0.5, bbox.height);
    ctx.globalAlpha = 1;
    const below = [...this.base];
    const area = (fill: string | CanvasPattern, add: (i: number) => number, stroke?: string): void => {
      ctx.beginPath();
      for (let from = 0; from < cells.length; from++) {
        if (!(add(from) > 0)) continue;
        let until = from;
        while (until + 1 < cells.length && add(until + 1) > 0 && end(until) === cells[until + 1]) until++;
        ctx.moveTo(x(cells[from]!), y(below[from]!));
        for (let i = from; i <= until; i++) {
          ctx.lineTo(x(cells[i]!), y(below[i]! + add(i)));
          ctx.lineTo(x(end(i)), y(below[i]! + add(i)));
        }
        for (let i = until; i >= from; i--) {
          ctx.lineTo(x(end(i)), y(below[i]!));
          ctx.lineTo(x(cells[i]!), y(below[i]!));
        }
        ctx.closePath();
        from = until;
      }
      ctx.fillStyle = fill;
      ctx.fill();
      if (stroke) { ctx.strokeStyle = stroke; ctx.lineWidth = ratio; ctx.stroke(); }
      for (let i = 0; i < cells.length; i++) below[i]! += add(i);
    };
    if (this.whole) {
      const lower = [...below];
      below.fill(0);
      area(css.base!, i => lower[i]!);
    }
    this.bands.forEach((band, i) => {
      const parts = band.parts.length ? band.parts : [band.bytes];
      for (const part of parts) area(css[`band${band.key ? i : "rest"}`]!, at => part[at]!, this.whole ? undefined : css.surface!);
    });
    area(hatch(ctx, css.forecast!, ratio), i => history.forecast_bytes[i]!, css.forecast!);
    // How far the stack could go.
    ctx.strokeStyle = css.room!;
    ctx.lineWidth = 2 * ratio;
    ctx.setLineDash([]);
    ctx.beginPath();
    let open = false;
    cells.forEach((at, i) => {
      const value = this.room[i];
      if (value == null) { open = false; return; }
      if (open) ctx.lineTo(x(at), y(value)); else ctx.moveTo(x(at), y(value));
      ctx.lineTo(x(end(i)), y(value));
      open = end(i) === cells[i + 1];
    });
    ctx.stroke();
    if (this.whole) {
      ctx.lineWidth = 1.5 * ratio;
      ctx.setLineDash([6 * ratio, 4 * ratio]);
      const total = this.store.state?.node.memory_total_bytes ?? 0;
      ctx.beginPath();
      ctx.moveTo(bbox.left, y(total));
      ctx.lineTo(bbox.left + bbox.width, y(total));
      ctx.stroke();
      ctx.setLineDash([]);
    }
    // Pressure: a strip along the bottom, darker where more time was lost.
    const strip = 7 * ratio;
    for (let i = 0; i < cells.length; i++) {
      const share = Math.min(1, history.waiting_seconds[i]! / width);
      if (share < 0.001) continue;
      ctx.globalAlpha = 0.25 + 0.75 * Math.sqrt(share);
      ctx.fillStyle = css.pressure!;
      ctx.fillRect(x(cells[i]!), bbox.top + bbox.height - strip, Math.max(ratio, x(cells[i]! + width) - x(cells[i]!)), strip);
    }
    ctx.restore();
  }

  private drawLegend(now: number): void {
    const css = colours();
    const item = (colour: string, label: string, kind = ""): HTMLElement => h("span", { class: `key ${kind}` }, h("i", { style: { "--colour": colour } }), label);
    const any = (list: number[] | undefined): boolean => !!list?.some(value => value > 0.001);
    const bands = this.bands.map((band, i) => item(css[`band${band.key ? i : "rest"}`]!, `${name(band.label, 40)}${band.startups > 1 ? ` ×${band.startups}` : ""}`));
    const history = this.history!;
    show(this.legend, bands.length ? bands : h("span", { class: "dim" }, `nothing started until ${clock(now)}`),
      this.whole ? item(css.base!, "all that runs") : null,
      any(history.forecast_bytes) ? item(css.forecast!, "forecast: will still take", "hatch") : null,
      this.whole || !this.above.firstChild ? item(css.room!, "room: up to here start-ups can go", "line") : null,
      any(history.waiting_seconds) ? item(css.pressure!, "tasks waited for memory", "line") : null,
      history.stampede.some(Boolean) ? item(css.alarm!, "stampede", "wash") : null);
  }

  private drawMarks(): void {
    const plot = this.plot;
    const state = this.store.state;
    if (!plot || !state || plot.scales.x!.min == null) return;
    const all: Mark[] = [
      ...state.kills.map((kill): Mark => ({ at: kill.at, kind: "kill", href: `kill/${kill.kill}`, text: `OOM kill of ${name(kill.container ? kill.container.workload : kill.victim_command, 60)}` })),
      ...state.scale_events.map((event): Mark => ({
        at: event.at, kind: "scale", href: `scale/${event.at}/${encodeURIComponent(event.workload)}`,
        text: `${name(event.workload, 60)} scaled ${event.from ?? "?"} → ${event.to}`,
      })),
    ].filter(mark => mark.at >= plot.scales.x!.min! && mark.at <= plot.scales.x!.max!).sort((a, b) => a.at - b.at);
    const left = plot.bbox.left / devicePixelRatio;
    const groups: { x: number; marks: Mark[] }[] = [];
    for (const mark of all) {
      const x = left + plot.valToPos(mark.at, "x");
      const last = groups[groups.length - 1];
      if (last && x - last.x < NEAR_PX && last.marks[0]!.kind === mark.kind) last.marks.push(mark); else groups.push({ x, marks: [mark] });
    }
    show(this.marks, groups.map(({ x, marks }) => {
      const [first] = marks;
      const what = marks.length > 1 ? `${plural(marks.length, first!.kind === "kill" ? "OOM kill" : "scale event")}: ` : "";
      const text = `${what}${[...new Set(marks.map(mark => mark.text))].slice(0, 6).join(", ")}, ${clock(first!.at)}`;
      const href = marks.length > 1 ? `${first!.kind}s/${first!.at}/${marks[marks.length - 1]!.at}` : first!.href;
      return h("button", { class: `mark ${first!.kind}`, type: "button", title: text, "aria-label": text, style: { left: `${x}px` }, onclick: () => this.turn({ open: href }) },
        first!.kind === "kill" ? "✕" : "⇅", marks.length > 1 ? h("b", null, marks.length) : null);
    }));
  }

  /** What the cursor is on, in words. */
  private point(i: number | null): void {
    const history = this.history;
    if (i == null || !history || history.at[i] == null) return show(this.hover);
    const parts = [h("b", null, clock(history.at[i]!)), `  ${plural(history.starting[i]!, "container")} starting, holding ${bytes(history.starting_bytes[i])}`];
    const bands = this.bands.filter(band => band.bytes[i]! > 0).slice(0, 3).map(band => `${name(band.label, 30)} ${bytes(band.bytes[i])}`);
    if (bands.length) parts.push(` (${bands.join(", ")})`);
    if (history.forecast_bytes[i]) parts.push(`, will take ${bytes(history.forecast_bytes[i])} more`);
    parts.push(`, ${bytes(history.available_bytes[i])} available`);
    if (history.pods_available_bytes[i] != null) parts.push(`, ${bytes(history.pods_available_bytes[i])} for pods`);
    if (history.waiting_seconds[i]! > 0.001) parts.push(`, waited ${percent(Math.min(1, history.waiting_seconds[i]! / history.width_seconds))}`);
    show(this.hover, parts);
  }
}

/** Round numbers of bytes: powers of two times 1, 2, 5. */
export function steps(min: number, max: number): number[] {
  const unit = 1024 ** Math.floor(Math.log(Math.max(max, 1)) / Math.log(1024));
  const raw = (max - min) / unit / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(times => times * power).find(value => value >= raw)! * unit;
  const splits: number[] = [];
  for (let value = 0; value <= max; value += step) splits.push(value);
  return splits;
}

const patterns = new Map<string, CanvasPattern>();

function hatch(ctx: CanvasRenderingContext2D, colour: string, ratio: number): CanvasPattern | string {
  const key = `${colour} ${ratio}`;
  let pattern = patterns.get(key);
  if (!pattern) {
    const size = 7 * ratio;
    const tile = document.createElement("canvas");
    tile.width = tile.height = size;
    const draw = tile.getContext("2d")!;
    draw.strokeStyle = colour;
    draw.lineWidth = 1.4 * ratio;
    for (const shift of [-size, 0, size]) {
      draw.moveTo(shift, size);
      draw.lineTo(shift + size, 0);
    }
    draw.stroke();
    pattern = ctx.createPattern(tile, "repeat") ?? undefined;
    if (!pattern) return colour;
    patterns.set(key, pattern);
  }
  return pattern;
}

/** From the last cell before this time on: a day is not stacked to draw a quarter of an hour. */
function since(history: History, from: number): History {
  const first = Math.max(0, lower(history.at, from) - 1);
  if (!first) return history;
  const columns = Object.entries(history).map(([name, column]) => [name, Array.isArray(column) ? column.slice(first) : column]);
  return Object.fromEntries(columns) as History;
}
