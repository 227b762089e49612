// Words, numbers and elements of the report, and the sections that are text or a plain table.
// Everything shown is set as text, never as markup: much of it was written by a model.

const $ = (id) => document.getElementById(id);
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;
const tidy = (text) => String(text ?? "").replace(CONTROL, "\ufffd");
const short = (text, most = 120) => {
  const one = tidy(text).replace(/\s+/g, " ").replaceAll(" -> ", " \u2192 ");
  return one.length > most ? one.slice(0, most - 1) + "\u2026" : one;
};

/** An element with attributes (onclick and the like as functions) and children, strings as text. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().map((child) => (child instanceof Node ? child : tidy(child))));
  return element;
}

const known = (value) => value !== null && value !== undefined;
const NONE = "\u2013";
const or = (value, write) => (known(value) ? write(value) : NONE);
const count = (n) => n.toLocaleString("en");
const number = (value, digits = 3) => value.toLocaleString("en", { maximumSignificantDigits: digits });
const bpb = (value) => value.toFixed(4);
const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(4);
const percent = (share) => `${(100 * share).toFixed(share && share < 0.1 ? 1 : 0)} %`;
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
const WATT_HOUR = 3600;
function energy(joules) {
  const hours = joules / WATT_HOUR;
  return hours >= 1000 ? `${number(hours / 1000)} kWh` : `${number(hours)} Wh`;
}
function duration(seconds) {
  if (seconds < 90) return `${number(seconds, 2)} s`;
  if (seconds < 90 * 60) return `${number(seconds / 60, 2)} min`;
  return `${number(seconds / 3600)} h`;
}
function bytes(n) {
  return n >= 2 ** 30 ? `${number(n / 2 ** 30)} GiB` : `${number(n / 2 ** 20)} MiB`;
}
const DATE = { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", timeZone: "UTC" };
const moment = (iso) => new Date(iso).toLocaleString("en-GB", DATE) + " UTC";
const withHalf = (value, half) => or(value, bpb) + (known(value) && known(half) ? ` \u00b1 ${bpb(half)}` : "");
const score = (trial) => withHalf(trial.val_bpb, known(trial.high) ? trial.high - trial.val_bpb : null);
const between = (low, high) => (known(low) && known(high) ? ` [${signed(low)}, ${signed(high)}]` : "");
const better = (trial) =>
  known(trial.improvement) ? signed(trial.improvement) + between(trial.improvement_low, trial.improvement_high) : NONE;
const worded = (outcome) => tidy(outcome).replace("_", " ");

/** Keeps a number and its unit, or its interval, on one line. */
const joined = (text) => text.replace(/(\d) (?=%|k?Wh|EUR|USD|\u00b1)|(\u00b1) /g, "$1$2\u00a0");

/** A plain table. Columns: [heading, row -> text or node, "num" | "wide" | ""]. */
function table(columns, rows, caption) {
  return el(
    "table",
    {},
    caption ? [el("caption", {}, caption)] : [],
    el("thead", {}, el("tr", {}, columns.map(([name, , kind]) => el("th", { scope: "col", class: kind }, name)))),
    el(
      "tbody",
      {},
      rows.map((row) => el("tr", {}, columns.map(([, cell, kind]) => el("td", { class: kind }, cell(row) ?? NONE)))),
    ),
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
  const { study } = facts;
  document.title = `${tidy(study.name)}: ${document.body.dataset.live === undefined ? "report" : "live"}`;
  $("name").textContent = tidy(study.name);
  $("preset").textContent = study.imported
    ? `imported from ${tidy(study.imported.file)} (${tidy(study.imported.format)})`
    : tidy(study.preset);
  $("status").textContent = statusLine(facts);
  $("headline").replaceChildren(...facts.headline.map((sentence) => el("p", {}, joined(sentence))));
  $("not-this").textContent = tidy(facts.not_this);
  $("warnings").replaceChildren(...facts.warnings.map((sentence) => el("li", {}, sentence)));
  $("standings").replaceChildren(standings(facts));
  const { verdict, why } = facts.meters;
  $("verdict").replaceChildren(el("b", {}, verdict), `: ${short(why, 400)}.`);
  $("meters").replaceChildren(...meters(facts));
  const untouched = facts.meters.untouched;
  $("untouched").textContent = untouched.length
    ? `Never turned: ${untouched.map((knob) => short(knob, 40)).join(", ")}.`
    : "Every knob on the menu was turned at least once.";
  $("energy-note").textContent = energyNote(facts);
  $("proposers").replaceChildren(proposers(facts));
  $("failures-section").hidden = !facts.failures.length;
  $("failures").replaceChildren(...facts.failures.map(failure));
  $("promotions-section").hidden = !facts.promotions.length;
  $("promotions").replaceChildren(...facts.promotions.flatMap(promotion));
  $("footer").textContent =
    "Bits per byte: how many bits the model needs to encode one byte of a text that it was not trained on; less is " +
    `better. Intervals are 95 % intervals, from a run-to-run deviation of ${or(facts.noise.deviation, bpb)} ` +
    `(${tidy(facts.noise.source)}). Made by autoresearch.`;
}

function statusLine({ study, trials }) {
  const parts = [plural(trials.length - 1, "trial")];
  if (study.budget) parts.push(tidy(study.budget));
  if (study.devices.length) parts.push(`on ${study.devices.map(tidy).join(", ")}`);
  if (!study.imported) {
    const doing = study.running ? "running" : "not running";
    parts.push(study.control === "pause" ? `${doing}, paused` : doing);
  }
  if (study.in_flight.length) parts.push(`${plural(study.in_flight.length, "run")} in flight`);
  if (study.as_of) parts.push(`as of ${moment(study.as_of)}`);
  return parts.join(" \u00b7 ");
}

function standings({ baseline, incumbent }) {
  const rows = [["baseline", baseline], ...(incumbent.trial ? [["best recipe", incumbent]] : [])];
  return table(
    [
      ["", ([name]) => name],
      ["trial", ([, its]) => link(its.trial), "num"],
      ["bits per byte, text that decides", ([, its]) => withHalf(its.val_bpb, its.val_bpb_half_interval), "num"],
      ["runs", ([, its]) => count(its.n_runs), "num"],
      ["bits per byte, untouched test text", ([, its]) => withHalf(its.test_bpb, its.test_bpb_half_interval), "num"],
      ["runs", ([, its]) => count(its.n_test_runs), "num"],
    ],
    rows,
  );
}

const link = (trial) => el("a", { href: `#trial-${trial}` }, String(trial));
const pair = (it) => (it ? `${short(it.knob, 30)} = ${short(it.value, 30)}` : NONE);
const times = (it) => (it ? `${plural(it.count, "time")}, ${percent(it.share)} of all` : "nothing yet");

function meters({ meters: m }) {
  const rails = Object.entries(m.blocked_by_rail).map(([rail, n]) => `${tidy(rail)} ${n}`);
  const both = m.judged_both_ways.length;
  const twice = m.most_proposed && m.most_proposed.count > 1;
  const items = [
    [
      "Knobs turned",
      `${m.knobs_touched} of ${m.knobs_on_menu}`,
      m.untouched.length ? `untouched: ${m.untouched.length}` : "all of the menu",
    ],
    ["Different ideas", count(m.unique_pairs), `pairs of knob and value, in ${plural(m.proposals, "proposal")}`],
    ["Repeats", or(m.repeat_rate, percent), "of the proposals asked for what had been asked before"],
    ["Asked for most", twice ? pair(m.most_proposed) : NONE, twice ? times(m.most_proposed) : "nothing twice"],
    ["Kept most", pair(m.most_kept), m.most_kept ? plural(m.most_kept.count, "time") : "nothing yet"],
    ["Keep rate", or(m.keep_rate, percent), "of the trained changes were kept"],
    ["First keep", or(m.first_keep, (n) => `trial ${n}`), known(m.best_keep) ? `best keep: trial ${m.best_keep}` : ""],
    ["Plateau", plural(m.plateau, "trial"), "since the last keep that was the best so far"],
    [
      "Blocked",
      count(m.blocked ?? 0),
      rails.length ? `by rule: ${rails.join(", ")}` : "by the rules that guard the recipe",
    ],
    [
      "Run to run",
      or(m.run_deviation, (it) => `\u00b1 ${bpb(it)}`),
      known(m.run_deviation)
        ? `one recipe's runs deviate by this, from ${plural(m.run_deviation_dof, "repeated run")}`
        : "no recipe was run twice",
    ],
    [
      "Gain",
      withHalf(m.gain, m.gain_half_interval),
      known(m.gain_per_kwh) ? `bits per byte; ${number(m.gain_per_kwh)} per kWh` : "bits per byte",
    ],
    [
      "Luck in the lowest number",
      or(m.luck, bpb),
      known(m.luck)
        ? `${bpb(m.best_observed)} (trial ${m.best_observed_trial}) against ${bpb(m.best_recipe_mean)}, ` +
          `its recipe's mean of ${plural(m.best_recipe_runs, "run")}`
        : "its recipe was run once: not known",
    ],
    [
      "Judged both ways",
      plural(both, "recipe"),
      both
        ? m.judged_both_ways.map((it) => short(it.change, 40)).slice(0, 3).join("; ")
        : "none was both kept and discarded",
    ],
  ];
  return items.map(([name, value, hint]) =>
    el("div", {}, el("dt", {}, name), el("dd", { class: "value" }, joined(value)), el("dd", { class: "hint" }, hint)),
  );
}

function energyNote({ trials, study }) {
  const joules = trials.reduce((sum, trial) => sum + (trial.energy_joules ?? 0), 0);
  if (!joules) return "No energy was recorded.";
  const money = (joules / 3.6e6) * study.price_per_kwh;
  return (
    `${energy(joules)} in all, ${number(money, 2)} ${tidy(study.currency)} at ${study.price_per_kwh} a kWh. Sources: ` +
    "nvml is the GPU's own counter, rapl the processor's; an estimate comes from time and wattage."
  );
}

function proposers({ proposers: rows }) {
  return table(
    [
      ["proposer", (it) => short(it.name, 40) + (it.model ? ` (${short(it.model, 60)})` : ""), "wide"],
      ["proposals", (it) => count(it.proposals), "num"],
      ["blocked", (it) => count(it.blocked), "num"],
      ["failed", (it) => count(it.failed), "num"],
      ["kept", (it) => count(it.kept) + (known(it.keep_rate) ? ` (${percent(it.keep_rate)})` : ""), "num"],
      ["gain, bits per byte", (it) => withHalf(it.gain, it.gain_half_interval), "num"],
      ["per trial", (it) => or(it.gain_per_trial, bpb), "num"],
      ["per kWh", (it) => or(it.gain_per_kwh, number), "num"],
      ["time to answer", (it) => or(it.latency_seconds, duration), "num"],
      ["tokens", (it) => or(it.tokens, count), "num"],
    ],
    rows,
  );
}

function failure({ kind, count: n, trials, lines }) {
  const links = trials.slice(0, 20).flatMap((trial, i) => [i ? ", " : "", link(trial)]);
  const title = el("h3", {}, `${worded(kind)}: ${plural(n, "run")}`);
  return el("div", {}, title, el("p", {}, "trials ", links), el("pre", {}, lines.map(tidy).join("\n")));
}

const divergence = ({ seed, step }) => `seed ${seed} diverged at step ${step ?? "?"}`;

function promotion(it) {
  const gain = (name) => (row) =>
    known(row[`${name}_gain`]) ? signed(row[`${name}_gain`]) + between(row[`${name}_low`], row[`${name}_high`]) : NONE;
  const rows = table(
    [
      ["trial", (row) => link(row.trial), "num"],
      ["recipe", (row) => short(row.label), "wide"],
      ["verdict", (row) => [worded(row.verdict), ...(row.diverged ?? []).map(divergence)].join("; ")],
      ["better in the search", gain("search"), "num"],
      ["for longer", gain("long"), "num"],
      ["on the test text", gain("test"), "num"],
      ["bits per byte there", (row) => withHalf(row.long_val_bpb, row.long_half_interval), "num"],
      ["runs", (row) => or(row.n_runs, count), "num"],
    ],
    it.rows ?? [],
    known(it.factor) ? `${number(it.factor)} times the budget, ${plural((it.seeds ?? []).length, "seed")} each` : null,
  );
  return [el("p", {}, it.sentence ?? ""), scrollable("Promotion", rows)];
}
