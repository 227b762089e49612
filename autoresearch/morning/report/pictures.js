// Feeds the charts: from the facts to the rows and the vertical range that each specification draws.

const { specs, themes, outcomes: OUTCOMES, roles: ROLES } = JSON.parse($("specs").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const WATT_HOUR = 3600; // joules
// Marked on an axis of ratios, by how wide it is.
const NEAR = [0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5];
const FAR = [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 10, 20, 30, 50, 100];
const MANY = 300; // more points than this are drawn on a canvas, smaller and fainter
const drawn = new Map(); // figure -> the Vega view in it

/** Draws one specification into a figure: data by name, parameters by name, height if it is not the usual. */
async function draw(figure, name, datasets, parameters, title) {
  const theme = dark.matches ? "dark" : "light";
  const rows = Math.max(...Object.values(datasets).map((set) => set.length));
  const place = figure.querySelector(":scope > .chart") ?? figure.appendChild(el("div", { class: "chart" }));
  const { height = specs[name].height, ...values } = parameters;
  const params = Object.entries(values).map(([key, value]) => ({ name: key, value }));
  drawn.get(figure)?.finalize();
  place.style.minHeight = `${place.offsetHeight}px`; // so that what is below does not jump while it is drawn anew
  place.style.background = themes[theme].background; // paper shows the ground that the colours were chosen for
  const chart = await vegaEmbed(
    place,
    { ...titled(specs[name]), height, description: title, datasets, params },
    {
      ast: true, // interpreted, so that the page's policy can forbid eval
      actions: false,
      logLevel: 1, // errors; that a layer is empty is no cause for a warning
      config: themes[theme],
      renderer: rows > MANY ? "canvas" : "svg",
      tooltip: { theme },
    },
  );
  drawn.set(figure, chart);
  place.style.minHeight = "";
  chart.view.addEventListener("click", (_, item) => {
    const trial = item?.datum?.number;
    if (Number.isInteger(trial) && "outcome" in item.datum) location.hash = `trial-${trial}`;
  });
}

/** With the words of the study's metric in its titles. */
const titled = (spec) =>
  JSON.parse(JSON.stringify(spec), (key, value) => (key === "title" && typeof value === "string" ? named(value) : value));

const sorted = (values) => values.filter(known).sort((a, b) => a - b);
const quantile = (values, share) => values[Math.round((values.length - 1) * share)];

/** [low, high] that holds `must` and what is not absurdly far from the middle of `values`; null without any. */
function frame(values, must) {
  const all = sorted(values);
  const held = sorted(must);
  if (!all.length && !held.length) return null;
  const [first, middle, last] = all.length ? [0.05, 0.5, 0.95].map((share) => quantile(all, share)) : [0, 0, 0];
  const up = 3 * Math.max(middle - first, 1e-9);
  const down = 3 * Math.max(last - middle, 1e-9);
  const near = all.filter((value) => value <= middle + up && value >= middle - down);
  const inside = sorted([...near, ...held]);
  const [low, high] = [inside[0], inside[inside.length - 1]];
  const room = 0.06 * (high - low || Math.abs(high) || 1);
  return [low - room, high + room];
}

/** Where a value is drawn in a frame, and the arrow that stands for one outside it. */
function placed(value, [low, high]) {
  if (!known(value)) return { y: low, arrow: "" };
  const room = 0.03 * (high - low);
  if (value > high) return { y: high - room, arrow: "\u25b2" };
  if (value < low) return { y: low + room, arrow: "\u25bc" };
  return { y: value, arrow: "" };
}

function trialRows({ trials, incumbent }) {
  const kept = trials.filter((trial) => ["keep", "baseline"].includes(trial.outcome));
  const must = [
    ...trials.flatMap((trial) => [trial.best_low, trial.best_high]),
    ...kept.flatMap((trial) => [trial.low, trial.high]),
  ];
  const scores = trials.map((trial) => trial.value);
  const range = frame(scores, must) ?? [0, 1];
  const chain = new Set();
  const byNumber = new Map(trials.map((trial) => [trial.number, trial]));
  for (let at = byNumber.get(incumbent); at; at = byNumber.get(at.parent)) chain.add(at.number);
  const rows = trials.map((trial) => ({
    number: trial.number,
    parent: trial.parent,
    generation: trial.generation,
    parent_generation: byNumber.get(trial.parent)?.generation ?? null,
    chain: chain.has(trial.number),
    label: chain.size <= 12 && chain.has(trial.number) && trial.number ? short(trial.change, 40) : "",
    late: trial.number > 0.6 * trials.length, // its label stands before it, not after it
    outcome: trial.outcome,
    change: short(trial.change, 80),
    score: typeset(trial.score),
    n_runs: trial.n_runs,
    better: typeset(trial.better),
    value: trial.value,
    interval_low: trial.low,
    interval_high: trial.high,
    best: trial.best,
    best_low: trial.best_low,
    best_high: trial.best_high,
    watt_hours: trial.spent_joules / WATT_HOUR,
    flops_over_baseline: trial.flops_over_baseline,
    compute: trial.compute,
    ...placed(trial.value, range),
  }));
  const present = new Set(rows.map((row) => row.outcome));
  const outcomes = OUTCOMES.filter((outcome) => present.has(outcome));
  const crowd = trials.length > MANY;
  const sizes = crowd ? { dot: 14, faint: 0.12 } : { dot: 42, faint: 0.45 };
  return { rows, parameters: { low: range[0], high: range[1], outcomes, ...sizes } };
}

function drawAll(facts) {
  const pictures = {};
  const { rows, parameters } = trialRows(facts);
  const [worst] = rows.filter((row) => row.arrow).sort((a, b) => facts.metric.sign * (b.value - a.value));
  document.querySelector('[data-note="best"]').textContent = worst
    ? `An arrowhead at the edge is a trial beyond it, the farthest at ${worst.score}.`
    : "";
  const tops = "Scores of all trials and the best so far";
  pictures.best = [{ trials: rows }, parameters, tops];
  if (rows.at(-1)?.watt_hours > 0) pictures.best_by_energy = [{ trials: rows }, parameters, `${tops}, by energy spent`];
  const compute = computePicture(rows, parameters, facts.metric);
  if (compute) pictures.compute = compute;
  if (rows.length > 1) {
    const steps = Math.max(...rows.map((row) => row.generation));
    const height = Math.min(Math.max(90, 40 * (steps + 1)), 320);
    pictures.lineage = [{ trials: rows }, { ...parameters, height }, "Which trial started from which"];
  }
  const windows = facts.repeats.map((it) => ({ ...it, start: it.first - 0.5, end: it.last + 0.5 }));
  if (windows.some((it) => it.repeat_rate))
    pictures.repeats = [{ windows }, {}, "Share of repeated proposals in each window of ten"];
  if (facts.curves.length) pictures.curves = curvePicture(facts.curves, "Training loss of the kept trials");
  const parts = facts.work.map((it) => ({ ...it, label: typeset(it.label) }));
  if (parts.length) {
    const parameters = { high: 1.5 * parts[0].seconds, height: 24 * parts.length };
    pictures.wall = [{ parts }, parameters, "Time by part of the work"];
  }
  const spent = facts.trials.filter((trial) => trial.energy_joules > 0).map((trial) => ({
    number: trial.number,
    start: trial.number - 0.45,
    end: trial.number + 0.45,
    watt_hours: trial.energy_joules / WATT_HOUR,
    energy: typeset(trial.energy),
    source: short(trial.energy_source || "unknown", 30),
    outcome: trial.outcome,
  }));
  if (spent.length) pictures.energy = [{ trials: spent }, {}, "Energy of each trial"];
  const jobs = [...document.querySelectorAll("[data-chart]")].map((figure) => {
    const name = figure.dataset.chart;
    figure.hidden = !(name in pictures);
    return figure.hidden ? null : draw(figure, name, ...pictures[name]);
  });
  for (const part of document.querySelectorAll("#charts > section:not(.pair, #search), .pair > div")) {
    const figures = [...part.querySelectorAll("[data-chart]")];
    part.hidden = figures.length > 0 && figures.every((figure) => figure.hidden);
  }
  return Promise.all([...jobs, ...drawCoverage(facts)]);
}

/** Gain on the baseline against FLOPs; null where all runs took the same, or nobody counted. */
function computePicture(rows, parameters, { sign }) {
  const start = rows[0]?.value;
  const counted = rows.filter((row) => known(row.value) && row.flops_over_baseline > 0);
  const ratios = sorted(counted.map((row) => row.flops_over_baseline));
  if (!known(start) || !ratios.length || Math.max(ratios.at(-1), 1 / ratios[0]) < 1.01) return null;
  const gains = counted.map((row) => ({
    ...row,
    gain: sign * (start - row.value),
    gain_low: sign * (start - row.interval_high),
    gain_high: sign * (start - row.interval_low),
  }));
  const kept = gains.filter((row) => ["keep", "baseline"].includes(row.outcome));
  const range = frame(gains.map((row) => row.gain), [0, ...kept.flatMap((row) => [row.gain_low, row.gain_high])]);
  const trials = gains.map((row) => ({ ...row, ...placed(row.gain, range) }));
  const marks = ratios.at(-1) / ratios[0] < 2.5 ? NEAR : FAR;
  const ticks = marks.filter((times) => times >= ratios[0] / 1.2 && times <= ratios.at(-1) * 1.2);
  const present = new Set(trials.map((row) => row.outcome));
  const outcomes = OUTCOMES.filter((outcome) => present.has(outcome));
  const title = "Gain on the baseline against the FLOPs of a run";
  const datasets = { trials, zero: [{ y: 0, x: 1 }] };
  return [datasets, { ...parameters, low: range[0], high: range[1], outcomes, ticks }, title];
}

/** Curves: [{run label, role, points}] -> what the curve charts take; the steep beginning may leave the frame. */
function curvePicture(curves, title) {
  const points = curves.flatMap(({ trial, seed, role, label, points: its }) =>
    its.map(([x, y]) => ({ x, y, role, run: `${trial}-${seed}`, label: short(label, 80) })),
  );
  const losses = sorted(points.map((point) => point.y));
  const [low, most, high] = [losses[0], quantile(losses, 0.9), losses.at(-1)];
  const top = high - low > 3 * (most - low) && most > low ? low + 1.6 * (most - low) : high;
  const roles = ROLES.filter((role) => curves.some((curve) => curve.role === role));
  const room = 0.04 * (top - low || 1);
  return [{ points }, { low: low - room, high: top + room, roles }, title];
}

/** Of these values those that have room for a label: the first, the last, and what is far enough from both. */
function spaced(values, logarithmic) {
  const all = [...new Set(sorted(values))];
  const at = logarithmic ? Math.log : Number;
  const [first, last] = [at(all[0]), at(all.at(-1))];
  const room = (last - first) * 0.22;
  const chosen = [all[0]];
  for (const value of all.slice(1, -1))
    if (at(value) - at(chosen.at(-1)) >= room && last - at(value) >= room) chosen.push(value);
  return all.length > 1 ? [...chosen, all.at(-1)] : chosen;
}

/** One small chart a knob, all on one vertical scale. */
function drawCoverage({ knobs }) {
  const tried = knobs.flatMap((it) => it.values);
  const effects = tried.map((row) => row.effect);
  const kept = tried.filter((row) => row.kept);
  const range = frame(effects, [0, ...kept.flatMap((row) => [row.low, row.high])]) ?? [-1, 1];
  const place = $("coverage");
  const old = new Map([...place.children].map((figure) => [figure.dataset.knob, figure]));
  const figures = knobs.map(
    ({ knob }) => old.get(knob) ?? el("figure", { "data-knob": knob }, el("figcaption", {}, short(knob, 40))),
  );
  place.replaceChildren(...figures);
  return figures.map((figure, i) => {
    const { knob, axis, baseline, values } = knobs[i];
    const rows = [...(baseline ? [baseline] : []), ...values].map((row) => ({
      ...row,
      value: short(row.value, 24),
      better: typeset(row.better),
      interval_low: row.low,
      interval_high: row.high,
      ...(row === baseline ? { y: 0, arrow: "" } : placed(row.effect, range)),
    }));
    const ticks = axis === "names" ? [] : spaced(rows.map((row) => row.number), axis === "log");
    const datasets = { values: rows, zero: [{ y: 0 }] };
    const title = `Effect of the values of ${short(knob, 40)}`;
    return draw(figure, `effect_${axis}`, datasets, { low: range[0], high: range[1], ticks }, title);
  });
}
