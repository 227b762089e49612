// Elements of the report, and the sections that are text or a plain table. What they say is in the facts.
// Everything shown is set as text, never as markup: much of it was written by a model.

const $ = (id) => document.getElementById(id);
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;
const tidy = (text) => String(text ?? "").replace(CONTROL, "\ufffd");
/** With real arrows and minus signs, and each number on one line with its unit or its interval. */
const typeset = (text) =>
  tidy(text)
    .replace(/^-$/, "\u2013")
    .replaceAll(" -> ", " \u2192 ")
    .replace(/(^|[\s[(])-(?=\d)/g, "$1\u2212")
    .replace(/(\d) (?=(?:%|k?Wh|EUR|USD|s|min|h|[MG]iB)(?!\w)|\u00b1)|(\u00b1) /g, "$1$2\u00a0");
const short = (text, most = 120) => {
  const one = typeset(tidy(text).replace(/\s+/g, " "));
  return one.length > most ? one.slice(0, most - 1) + "\u2026" : one;
};

/** An element with attributes (onclick and the like as functions) and children, strings as text. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().map((child) => (child instanceof Node ? child : typeset(child))));
  return element;
}

/** Text that stands as it is, such as a log. */
const verbatim = (tag, text, attributes = {}) => el(tag, attributes, document.createTextNode(tidy(text)));

const known = (value) => value !== null && value !== undefined;
const count = (n) => n.toLocaleString("en");
const link = (trial) => el("a", { href: `#trial-${trial}` }, String(trial));

/** A plain table. Columns: [{name, kind}], kind one of trial, number, word, text; rows: lists of texts. */
const CLASSES = { trial: "num", number: "num", text: "wide", word: "" };
function table({ columns, rows }) {
  const cell = (text, kind) => (kind === "trial" ? link(text) : short(text, 200));
  const line = (row) => columns.map(({ kind }, i) => el("td", { class: CLASSES[kind] }, cell(row[i], kind)));
  const head = columns.map(({ name, kind }) => el("th", { scope: "col", class: CLASSES[kind] }, name));
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, head)),
    el("tbody", {}, rows.map((row) => el("tr", {}, line(row)))),
  );
}

/** A box that a wide table scrolls in, with the keyboard too. */
const scrollable = (name, inner) => el("div", { class: "box", tabindex: 0, role: "region", "aria-label": name }, inner);

/** What was packed into the page under this id; null where there is nothing. */
async function unpack(id) {
  const text = $(id).textContent.trim();
  if (!text) return null;
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

function showText(facts) {
  const { name, origin, status } = facts.study;
  document.title = `${tidy(name)}: ${document.body.dataset.live === undefined ? "report" : "live"}`;
  const texts = { name, preset: origin, status, "not-this": facts.not_this, untouched: facts.untouched };
  for (const [id, text] of Object.entries({ ...texts, "energy-note": facts.energy, noise: facts.noise }))
    $(id).textContent = typeset(text);
  for (const place of document.querySelectorAll("[data-metric]"))
    place.textContent = typeset(facts.metric[place.dataset.metric]);
  $("headline").replaceChildren(...facts.headline.map((sentence) => el("p", {}, sentence)));
  $("warnings").replaceChildren(...facts.warnings.map((sentence) => el("li", {}, sentence)));
  $("standings").replaceChildren(table(facts.standings));
  $("verdict").replaceChildren(el("b", {}, facts.verdict), `: ${short(facts.why, 400)}.`);
  $("meters").replaceChildren(...facts.meters.map(meter));
  $("proposers").replaceChildren(table(facts.proposers));
  $("failures-section").hidden = !facts.failures.length;
  $("failures").replaceChildren(...facts.failures.map(failure));
  $("promotions-section").hidden = !facts.promotions.length;
  $("promotions").replaceChildren(...facts.promotions.map(promotion));
}

function meter({ name, value, note }) {
  const hint = el("dd", { class: "hint" }, short(note, 240));
  return el("div", {}, el("dt", {}, name), el("dd", { class: "value" }, short(value, 80)), hint);
}

function failure({ title, trials, more, lines }) {
  const links = trials.flatMap((trial, i) => [i ? ", " : "", link(trial)]);
  return el("div", {}, el("h3", {}, title), el("p", {}, "trial ", links, more), verbatim("pre", lines.join("\n")));
}

function promotion({ title, sentence, recipes }) {
  return el("div", {}, el("h3", {}, title), el("p", {}, sentence), scrollable(title, table(recipes)));
}
