// Sources here -> page.html, page.js, page.css in observer/src/http/web/. The digest of the sources is written into the page;
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

const options = { bundle: true, minify: true, write: false, target: "es2022", legalComments: "none", logLevel: "warning" };
const text = async entry => (await build({ ...options, format: "iife", entryPoints: [`${here}src/${entry}`] })).outputFiles[0].text;
const [script, style] = [await text("main.ts"), await text("style.css")];
const page = readFileSync(`${here}src/page.html`, "utf8").replace("SOURCES", digest);
const files = { "page.js": script, "page.css": style, "page.html": page };
let bytes = 0;
for (const [name, content] of Object.entries(files)) {
  writeFileSync(out + name, content);
  bytes += content.length;
}
console.log(`${Object.keys(files).join(", ")}: ${(bytes / 1024).toFixed(0)} KiB, sources ${digest.slice(0, 12)}`);
