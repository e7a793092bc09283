"""Style sheet and script of the report page, as written into it: no file or font is fetched."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #f1f3f6; --line: #c9d0d8;
  --link: #0b5cad; --faint: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --paper: #15181c; --soft: #20252b;
  --line: #434b55; --link: #7ab7f5; --faint: #a3adb8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.5rem; padding-top: 0.6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; margin: 0.8rem 0; padding: 0;
  list-style: none; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.15rem 1rem;
  margin: 0.5rem 0; }
dt, .note, caption, figcaption { color: var(--faint); }
dd { margin: 0; min-width: 0; }
.scroll { overflow-x: auto; margin: 0.5rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.3rem; }
caption, .note, figcaption { font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
thead th { vertical-align: bottom; background: var(--soft); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); max-width: 45vw;
  white-space: normal; }
thead th:first-child { background: var(--soft); }
td.text { text-align: left; }
td.missing { color: var(--faint); }
tfoot th, tfoot td { font-weight: 600; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; text-decoration: underline dotted; }
th[aria-sort] button { text-decoration: none; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
figure { margin: 0.5rem 0; break-inside: avoid; }
figure svg { width: 100%; max-width: 36rem; height: auto; }
svg text { fill: currentColor; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr));
  gap: 1rem; }
.pictures figure { margin: 0; }
.pictures figure.large { grid-column: 1 / -1; }
.pictures button { padding: 0; border: 0; width: 100%; background: none; cursor: zoom-in; }
.pictures .large button { cursor: zoom-out; }
.pictures img { width: 100%; height: auto; background: #fff; }
summary { cursor: pointer; }
pre { overflow-x: auto; padding: 0.7rem; background: var(--soft); font-size: 0.85rem; }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --soft: #eee; --line: #999; --link: #000;
    --faint: #333; }
  body { max-width: none; padding: 0; font-size: 9pt; }
  nav { display: none; }
  .scroll, pre { overflow: visible; }
  pre { white-space: pre-wrap; }
  th, td { padding: 0.1rem 0.4rem; }
  th:first-child { position: static; }
  h2, h3, caption { break-after: avoid; }
  tr { break-inside: avoid; }
  .pictures { grid-template-columns: 1fr 1fr; }
}
"""

# Headings sort, pictures grow; without scripts both stand as written. Rows without a number stay at the end.
SCRIPT = """
"use strict";
const words = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = Array.from(body.rows, (row) => [row, row.cells[column]]);
      rows.sort(([, a], [, b]) => {
        const [x, y] = [a.dataset.value, b.dataset.value];
        if (x === undefined) return sign * words.compare(a.textContent, b.textContent);
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (x - y);
      });
      body.append(...rows.map(([row]) => row));
    });
  });
}
for (const picture of document.querySelectorAll(".pictures img")) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  picture.replaceWith(button);
  button.append(picture);
  button.addEventListener("click", () => {
    const isLarge = button.parentElement.classList.toggle("large");
    button.setAttribute("aria-pressed", String(isLarge));
  });
}
"""
