// The table of all trials, with sorting and filters, and the dialog that shows one trial whole.

const MARKS = {
  keep: "\u25cf", discard: "\u00d7", baseline: "\u25c6", blocked: "\u25a0", failed: "\u25b2", "timed out": "\u25bc",
  carried: "\u25d7",
}; // prettier-ignore
// [heading, row -> what it is sorted by, row -> text, class]
const COLUMNS = [
  ["trial", (t) => t.number, (t) => link(t.number), "num"],
  ["outcome", (t) => t.label, outcomeCell, ""],
  ["change", (t) => t.change, (t) => short(t.change, 200), "wide"],
  ["{column}", (t) => t.value, (t) => t.score, "num"],
  ["runs", (t) => t.n_runs, (t) => (t.n_runs ? count(t.n_runs) : "-"), "num"],
  ["better by [95 %]", (t) => t.improvement, (t) => t.better, "num"],
  ["compute", (t) => t.flops_over_parent, (t) => t.times, "num"],
  ["by", (t) => t.proposer, (t) => short(t.proposer, 24), "few"],
  ["time", (t) => t.seconds, (t) => t.time, "num"],
  ["energy", (t) => t.energy_joules, (t) => t.energy, "num"],
];
const list = { facts: null, rows: new Map(), sort: 0, down: false, open: null, opener: null };

/** With the words of the study's metric. */
const named = (text) => text.replace(/\{(\w+)\}/g, (_, word) => tidy(list.facts.metric[word]));

function outcomeCell(trial) {
  const mark = el("span", { class: "mark", "aria-hidden": "true" }, MARKS[trial.outcome] ?? "\u25cb");
  return el("span", {}, mark, trial.label);
}

function showTrials(facts) {
  list.facts = facts;
  const focused = document.activeElement?.closest?.("#trials tr[data-trial]")?.dataset.trial;
  list.rows = new Map(facts.trials.map((trial) => [trial.number, trialRow(trial)]));
  const head = COLUMNS.map(([name, , , kind], column) =>
    el("th", { scope: "col", class: kind }, el("button", { type: "button", onclick: () => sortBy(column) }, named(name))),
  );
  const body = el("tbody");
  body.onclick = (event) => {
    const row = event.target.closest("tr");
    if (row && !event.target.closest("a") && !String(getSelection())) location.hash = `trial-${row.dataset.trial}`;
  };
  if ($("trials").tHead) $("trials").tBodies[0].replaceWith(body);
  else $("trials").replaceChildren(el("thead", {}, el("tr", {}, head)), body);
  const chosen = $("outcome").value;
  const outcomes = [...new Set(facts.trials.map((trial) => trial.outcome))].sort();
  $("outcome").replaceChildren(
    el("option", { value: "" }, "all"),
    ...outcomes.map((outcome) => el("option", { value: outcome }, outcome)),
  );
  $("outcome").value = outcomes.includes(chosen) ? chosen : "";
  order();
  filter();
  if (focused) list.rows.get(Number(focused))?.element.querySelector("a").focus({ preventScroll: true });
}

function trialRow(trial) {
  const cells = COLUMNS.map(([, , cell, kind]) => el("td", { class: kind }, cell(trial)));
  const { number: n, outcome, label, change, proposer, reason, hypothesis } = trial;
  const text = [n, label, change, proposer, reason, hypothesis];
  const element = el("tr", { "data-trial": n, class: outcome.replace(" ", "_") }, cells);
  return { trial, element, text: text.map(tidy).join(" ").toLowerCase() };
}

function sortBy(column) {
  list.down = list.sort === column ? !list.down : false;
  list.sort = column;
  order();
}

/** Puts the rows in order; those without a value come last, whichever way. */
function order() {
  const value = COLUMNS[list.sort][1];
  const way = list.down ? -1 : 1;
  const rows = [...list.rows.values()].sort((a, b) => {
    const [x, y] = [value(a.trial), value(b.trial)];
    if (!known(x) || !known(y)) return known(y) - known(x) || a.trial.number - b.trial.number;
    return way * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.trial.number - b.trial.number;
  });
  $("trials").tBodies[0].append(...rows.map((row) => row.element));
  [...$("trials").tHead.rows[0].cells].forEach((cell, column) => {
    if (column === list.sort) cell.setAttribute("aria-sort", list.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const outcome = $("outcome").value;
  let left = 0;
  for (const { trial, element, text } of list.rows.values()) {
    const stays = (!outcome || trial.outcome === outcome) && words.every((word) => text.includes(word));
    element.classList.toggle("out", !stays);
    left += stays;
  }
  $("count").textContent = `${count(left)} of ${list.facts.counted}`;
}

// The dialog follows the address: #trial-7 opens trial 7, any other closes it.
let embedded = null;
async function detailOf(trial) {
  if (document.body.dataset.live !== undefined) return (await request(`trials/${trial}.json`)).json();
  embedded ??= await unpack("details");
  const prompt = embedded.prompts[trial]?.map((line) => embedded.lines[line]).join("\n");
  return { ...embedded.trials[trial], prompt };
}

async function follow() {
  const wanted = /^#trial-(\d+)$/.exec(location.hash)?.[1];
  const row = wanted === undefined ? undefined : list.rows.get(Number(wanted));
  if (!row) return $("trial").close();
  const { number: trial } = row.trial;
  const detail = await detailOf(trial).catch(lost);
  if (!detail || location.hash !== `#trial-${trial}`) return;
  const dialog = $("trial");
  const place = list.open === trial ? dialog.scrollTop : 0;
  list.open = trial;
  const button = document.activeElement?.dataset?.by;
  dialog.replaceChildren(...trialView(row.trial, detail));
  if (dialog.open) dialog.querySelector(button ? `[data-by="${button}"]` : "h2").focus({ preventScroll: true });
  else {
    list.opener = document.activeElement;
    dialog.showModal();
  }
  dialog.scrollTop = place;
  const figure = dialog.querySelector("figure");
  if (figure) {
    await draw(figure, "runs", ...curvePicture(detail.curves, `Training loss of trial ${trial}`));
  }
  dialog.dataset.shown = trial;
}

function closed() {
  if (list.open === null || $("trial").open) return; // opened again before this was told
  for (const figure of $("trial").querySelectorAll("figure")) {
    drawn.get(figure)?.finalize();
    drawn.delete(figure);
  }
  const row = list.rows.get(list.open);
  list.open = null;
  delete $("trial").dataset.shown;
  history.replaceState(null, "", location.pathname + location.search);
  const opener = list.opener?.isConnected && list.opener !== document.body ? list.opener : null;
  const back = opener ?? row?.element.querySelector("a");
  back?.focus({ preventScroll: true });
}

/** Opens the next visible trial in the table's order, or the one before it. */
function step(by) {
  const visible = [...$("trials").tBodies[0].rows].filter((row) => !row.classList.contains("out"));
  const at = visible.findIndex((row) => Number(row.dataset.trial) === list.open);
  const next = visible[at < 0 ? 0 : at + by];
  if (next) location.replace(`#trial-${next.dataset.trial}`);
}

const turn = (by, arrow, name) =>
  el("button", { type: "button", onclick: () => step(by), "data-by": by, "aria-label": name, title: name }, arrow);

function trialView(trial, detail) {
  const parts = [
    el(
      "div",
      { class: "bar" },
      el("h2", { id: "trial-title", tabindex: -1, autofocus: true }, `Trial ${trial.number}: `, outcomeCell(trial)),
      turn(-1, "\u2190", "The trial before (left key)"),
      turn(1, "\u2192", "The next trial (right key)"),
      el("button", { type: "button", onclick: () => $("trial").close() }, "Close"),
    ),
  ];
  if (detail.hypothesis) parts.push(el("blockquote", {}, detail.hypothesis));
  parts.push(el("p", {}, el("b", {}, short(trial.change, 400)), " ", detail.summary));
  if (detail.reason) parts.push(el("p", { class: "soft" }, detail.reason));
  const section = (title, ...content) => parts.push(el("h3", {}, title), ...content);
  if (detail.diff) section("Change to the recipe", diffView(detail.diff));
  if (detail.verdicts.length) section("Rules it was checked against", rails(detail.verdicts));
  if (detail.runs.rows.length) section("Runs", scrollable("Runs", table(detail.runs)));
  if (detail.note) parts.push(el("p", { class: "soft" }, detail.note));
  if (detail.curves.length) section("Learning curves", el("figure"));
  if (known(detail.answer))
    section("What the proposer answered", el("p", { class: "soft" }, detail.asked), verbatim("pre", detail.answer));
  const folded = (title, text) => parts.push(el("details", {}, el("summary", {}, title), verbatim("pre", text)));
  if (known(detail.prompt)) folded(`What it was shown (${detail.shown})`, detail.prompt);
  if (detail.recipe) folded("The whole recipe", detail.recipe);
  if (detail.source) folded("As it was imported", detail.source);
  return parts;
}

function diffView(text) {
  const kind = (line) => (/^(\+\+\+|---) /.test(line) ? "" : { "+": "plus", "-": "minus" }[line[0]] ?? "");
  const lines = text.split("\n").filter(Boolean);
  return el("pre", {}, lines.map((line) => verbatim("span", line, { class: kind(line) })));
}

function rails(verdicts) {
  return el(
    "ol",
    { class: "rails" },
    verdicts.map(({ passed, text }) =>
      el("li", { class: passed ? "" : "blocked" }, `${passed ? "\u2713" : "\u2717"} ${short(text, 400)}`),
    ),
  );
}
