// The table of all trials, with sorting and filters, and the dialog that shows one trial whole.

const MARKS = {
  keep: "\u25cf", discard: "\u00d7", baseline: "\u25c6", blocked: "\u25a0", failed: "\u25b2", timed_out: "\u25bc",
}; // prettier-ignore
// [heading, row -> what it is sorted by, row -> text, class]
const COLUMNS = [
  ["trial", (t) => t.number, (t) => link(t.number), "num"],
  ["outcome", (t) => t.outcome + (t.rail ?? ""), outcomeCell, ""],
  ["change", (t) => t.change, (t) => short(t.change || "the baseline", 200), "wide"],
  ["bits per byte", (t) => t.val_bpb, (t) => score(t), "num"],
  ["runs", (t) => t.n_runs, (t) => t.n_runs || NONE, "num"],
  ["better by [95 %]", (t) => t.improvement, better, "num"],
  ["proposed by", (t) => t.proposer, (t) => short(t.proposer, 24), "few"],
  ["time", (t) => t.seconds, (t) => (t.seconds ? duration(t.seconds) : NONE), "num"],
  ["energy", (t) => t.energy_joules, (t) => or(t.energy_joules, energy), "num"],
];
const list = { facts: null, rows: new Map(), sort: 0, down: false, open: null, opener: null };

function outcomeCell(trial) {
  const detail = trial.rail ? ` (${trial.rail})` : "";
  const mark = el("span", { class: "mark", "aria-hidden": "true" }, MARKS[trial.outcome] ?? "\u25cb");
  return el("span", {}, mark, worded(trial.outcome) + detail);
}

function showTrials(facts) {
  list.facts = facts;
  const focused = document.activeElement?.closest?.("#trials tr[data-trial]")?.dataset.trial;
  list.rows = new Map(facts.trials.map((trial) => [trial.number, trialRow(trial)]));
  const head = COLUMNS.map(([name, , , kind], column) =>
    el("th", { scope: "col", class: kind }, el("button", { type: "button", onclick: () => sortBy(column) }, name)),
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
    ...outcomes.map((outcome) => el("option", { value: outcome }, worded(outcome))),
  );
  $("outcome").value = outcomes.includes(chosen) ? chosen : "";
  order();
  filter();
  if (focused) list.rows.get(Number(focused))?.element.querySelector("a").focus({ preventScroll: true });
}

function trialRow(trial) {
  const cells = COLUMNS.map(([, , cell, kind]) => el("td", { class: kind }, cell(trial)));
  const { number: n, outcome, rail, change, proposer, reason, hypothesis } = trial;
  const text = [n, outcome, rail, change, proposer, reason, hypothesis];
  const element = el("tr", { "data-trial": trial.number, class: worded(trial.outcome).replace(" ", "_") }, cells);
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
  $("count").textContent = `${count(left)} of ${plural(list.rows.size, "trial")}`;
}

// The dialog follows the address: #trial-7 opens trial 7, any other closes it.
let embedded = null;
async function detailOf(trial) {
  if (document.body.dataset.live !== undefined) return (await request(`trials/${trial}.json`)).json();
  embedded ??= await unpack("details");
  const detail = embedded.trials[trial];
  return { ...detail, prompt: detail.prompt && detail.prompt.map((line) => embedded.lines[line]).join("\n") };
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
    const curves = detail.runs.filter(hasCurve).map((run) => ({
      trial, seed: run.seed, role: "incumbent", label: `seed ${run.seed}`, points: run.curve,
    })); // prettier-ignore
    const picture = curvePicture(curves, `Training loss of trial ${trial}`);
    await draw(figure, "runs", ...picture);
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
  parts.push(el("p", {}, el("b", {}, short(trial.change || "The baseline", 400)), " ", joined(sentenceOf(trial))));
  if (detail.reason) parts.push(el("p", { class: "soft" }, detail.reason));
  const section = (title, ...content) => parts.push(el("h3", {}, title), ...content);
  if (detail.diff) section("Change to the recipe", diffView(detail.diff));
  if (detail.verdicts?.length) section("Rules it was checked against", rails(detail.verdicts));
  if (detail.runs?.length) section("Runs", scrollable("Runs", runs(detail.runs)));
  if (detail.runs?.some(hasCurve)) section("Learning curves", el("figure"));
  if (known(detail.answer))
    section("What the proposer answered", el("p", { class: "soft" }, asked(detail)), el("pre", {}, detail.answer));
  const folded = (title, text) => parts.push(el("details", {}, el("summary", {}, title), el("pre", {}, text)));
  if (known(detail.prompt)) folded(`What it was shown (${count(detail.prompt.length)} characters)`, detail.prompt);
  const knobs = Object.entries(detail.recipe ?? {}).map(([knob, value]) => `${knob} = ${JSON.stringify(value)}`);
  if (knobs.length) folded("The whole recipe", knobs.join("\n"));
  if (detail.source) folded("As it was imported", detail.source);
  return parts;
}

function sentenceOf(trial) {
  const parts = [];
  if (known(trial.parent)) parts.push(`on the recipe of trial ${trial.parent}`);
  if (known(trial.val_bpb)) parts.push(`${score(trial)} bits per byte over ${plural(trial.n_runs, "run")}`);
  if (known(trial.improvement)) parts.push(`better by ${better(trial)}`);
  if (known(trial.test_bpb)) parts.push(`${bpb(trial.test_bpb)} on the test text`);
  if (known(trial.energy_joules)) parts.push(`${energy(trial.energy_joules)} (${tidy(trial.energy_source)})`);
  return parts.join("; ");
}

function asked({ model, latency_seconds: latency, prompt_tokens: read, completion_tokens: wrote }) {
  const parts = [];
  if (model) parts.push(short(model, 80));
  if (known(latency)) parts.push(`answered in ${duration(latency)}`);
  if (known(read) || known(wrote)) parts.push(`${or(read, count)} tokens read, ${or(wrote, count)} written`);
  return parts.join(", ");
}

function diffView(text) {
  const kind = (line) => (/^(\+\+\+|---) /.test(line) ? "" : { "+": "plus", "-": "minus" }[line[0]] ?? "");
  return el("pre", {}, text.split("\n").filter(Boolean).map((line) => el("span", { class: kind(line) }, line)));
}

function rails(verdicts) {
  return el(
    "ol",
    { class: "rails" },
    verdicts.map(({ rail, passed, reason }) => {
      const said = `${passed ? "\u2713" : "\u2717 blocked by"} ${rail}`;
      return el("li", { class: passed ? "" : "blocked" }, reason ? `${said}: ${short(reason, 300)}` : said);
    }),
  );
}

const hasCurve = (run) => run.curve?.length > 1;
const stateOf = (run) => {
  const said = [worded(run.state), run.failure, run.message].filter(Boolean);
  return said.map((text) => short(text, 200)).join(": ");
};

function runs(rows) {
  return table(
    [
      ["seed", (run) => String(run.seed), "num"],
      ["purpose", (run) => worded(run.purpose)],
      ["state", stateOf, "wide"],
      ["bits per byte", (run) => or(run.val_bpb, bpb), "num"],
      ["test text", (run) => or(run.test_bpb, bpb), "num"],
      ["trained for", (run) => or(run.train_seconds, duration), "num"],
      ["tokens a second", (run) => or(run.tokens_per_second, (it) => count(Math.round(it))), "num"],
      ["of peak speed", (run) => or(run.mfu, percent), "num"],
      ["peak memory", (run) => or(run.peak_memory_bytes, bytes), "num"],
      ["energy", (run) => or(run.energy_joules, energy), "num"],
    ],
    rows,
  );
}
