// Sources here -> page.html, page.js, page.css, report.html in observer/src/http/web/. The digest of the sources is written into the page;
// `cargo test` compares it with what the sources are, so that a stale build is found without node.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const here = new URL(".", import.meta.url).pathname;
const out = `${here}../observer/src/http/web/`;
const sources = ["build.mjs", "package.json", "package-lock.json", ...readdirSync(`${here}src`).map(name => `src/${name}`)].sort();
const hash = createHash("sha256");
for (const name of sources) hash.update(`${name}\n`).update(readFileSync(here + name));
const digest = hash.digest("hex");

// uPlot makes formats of Intl as it is loaded, of which the page uses none: a quarter of its way to the first frame.
const swaps = [
  ["const numFormatter = new Intl.NumberFormat(domEnv ? nav.language : 'en-US');\nconst fmtNum = val => numFormatter.format(val);",
    "const fmtNum = val => new Intl.NumberFormat(nav.language).format(val);"],
  ["const localTz = new Intl.DateTimeFormat().resolvedOptions().timeZone;", ""],
  ["tz == localTz", "tz == new Intl.DateTimeFormat().resolvedOptions().timeZone"],
];
const swap = (text, from, to) => { if (!text.includes(from)) throw new Error(`there is no ${from}`); return text.replace(from, () => to); };
const later = {
  name: "later",
  setup: ({ onLoad }) => onLoad({ filter: /uPlot\.esm\.js$/ }, ({ path }) => ({
    contents: swaps.reduce((text, [from, to]) => swap(text, from, to), readFileSync(path, "utf8").replaceAll("\r\n", "\n")),
  })),
};

const options = { plugins: [later], bundle: true, minify: true, write: false, target: "es2022", legalComments: "none", logLevel: "warning" };
const text = async entry => (await build({ ...options, format: "iife", entryPoints: [`${here}src/${entry}`] })).outputFiles[0].text;
const [script, style] = [await text("main.ts"), await text("style.css")];
const page = readFileSync(`${here}src/page.html`, "utf8").replace("SOURCES", digest);
// The same page as one file: `observer report` puts style, text, data and script in their places. Nothing else runs in it.
const digestOf = content => `'sha256-${createHash("sha256").update(content).digest("base64")}'`;
const policy = `default-src 'none'; script-src ${digestOf(script)}; style-src ${digestOf(style)}; base-uri 'none'; form-action 'none'`;
let report = page;
for (const [from, to] of [
  ["<!doctype html>", "<!doctype html>\n<!-- observer report -->"],
  ['<meta name="viewport"', `<meta http-equiv="Content-Security-Policy" content="${policy}">\n<meta name="viewport"`],
  ['<link rel="stylesheet" href="page.css">', "<style>{{STYLE}}</style>"],
  [/<noscript>.*<\/noscript>/s.exec(page)[0], "<noscript><pre>{{TEXT}}</pre></noscript>"],
  ['<script src="page.js" defer></script>', '<script type="application/json" id="report">{{DATA}}</script>\n<script>{{SCRIPT}}</script>'],
]) report = swap(report, from, to);
// What the page asks for ahead is in the file already.
report = report.replace(/<!-- What src\/api\.ts asks[^\n]*\n(<link rel="preload"[^\n]*\n)*/, "");
if (/<link|src=/.test(report)) throw new Error("the report would ask for something");
if (/<\/(script|style)|<!--/i.test(script + style)) throw new Error("script or style would end its own element");
const files = { "report.html": report, "page.js": script, "page.css": style, "page.html": page };
let bytes = 0;
for (const [name, content] of Object.entries(files)) {
  writeFileSync(out + name, content);
  bytes += content.length;
}
console.log(`${Object.keys(files).join(", ")}: ${(bytes / 1024).toFixed(0)} KiB, sources ${digest.slice(0, 12)}`);
