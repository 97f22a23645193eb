// What is lent for start-ups now: quiet, and only where there is any.

import { Container } from "./api";
import { h } from "./dom";
import { bytes, clock, name, plural } from "./format";

/** More are a sum. */
const SHOWN = 5;

/** What a start took beyond its steady request: without the loan no request held room for it. */
const needed = (one: Container): number => Math.max(0, (one.startup_peak_bytes ?? one.peak_bytes) - one.loan!.steady_bytes);
const sum = (all: Container[], of: (one: Container) => number): number => all.reduce((total, one) => total + of(one), 0);

export const lent = (all: Iterable<Container>): Container[] => [...all].filter(one => one.loan && one.ended == null)
  .sort((a, b) => b.loan!.lent_bytes - a.loan!.lent_bytes || (a.id < b.id ? -1 : 1));

export function loans(all: Container[], open: (link: string) => void): HTMLElement | null {
  if (!all.length) return null;
  const each = (one: Container): HTMLElement => h("button", { class: "event", type: "button", onclick: () => open(`container/${one.id}`) },
    h("span", { class: "sign" }, "+"),
    h("span", null, h("b", { class: "name" }, name(one.pod || one.container, 60)),
      h("small", null, `requests ${bytes(one.loan!.requested_bytes)}, ${bytes(one.loan!.steady_bytes)} when settled; needed ${bytes(needed(one))} of the loan so far`)),
    h("time", { title: "since" }, clock(one.loan!.since)));
  const rest = all.slice(SHOWN);
  return h("div", { class: "loans", role: "group", "aria-label": "Lent for starts" },
    h("p", null, h("b", null, `${bytes(sum(all, one => one.loan!.lent_bytes))} lent`), ` to ${plural(all.length, "container")} for the start; ${bytes(sum(all, needed))} of start-up peaks had no room in the steady requests`),
    all.slice(0, SHOWN).map(each),
    rest.length ? h("p", { class: "dim" }, `and ${rest.length} more with ${bytes(sum(rest, one => one.loan!.lent_bytes))}: search by name`) : null);
}
