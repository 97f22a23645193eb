// What a report begins with: what happened, in the words of `observer why`.

import { Report } from "./api";
import { h } from "./dom";
import { name } from "./format";

/** Lines as they were; a name in them is shown, not obeyed. */
const lines = (text: string): HTMLElement => h("pre", null, text.replace(/\n$/, "").split("\n").map(line => name(line, 600)).join("\n"));

export function headline(report: Report, turn: (change: Record<string, string>) => void): HTMLElement {
  document.title = name(report.summary, 120);
  return h("section", { class: "card report", "aria-label": "What happened, in words" },
    h("h1", null, name(report.summary, 600)),
    report.stories.map(story => h("div", { class: "story" },
      h("h2", null, name(story.title, 400)), lines(story.lead),
      story.text ? h("details", null, h("summary", null, "everything that observer why says of it"), lines(story.text)) : null,
      story.workload ? h("button", { class: "link", type: "button", onclick: () => turn({ open: `workload/${story.workload}` }) }, "its containers, curves and checks") : null)));
}
