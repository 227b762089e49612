// Starts the page: from the facts packed into it, or, where it is served live, from those that it fetches.

const live = document.body.dataset.live !== undefined;
const POLL_MILLISECONDS = 2000;
let etag = null;

async function request(path, options = {}) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (answer.ok || answer.status === 304) return answer;
  const why = { 401: "it wants a token, so open the address that `autoresearch serve` printed", 403: "it refused" };
  throw new Error(why[answer.status] ?? `it answered ${answer.status}`);
}

/** Says in one line that the server cannot be reached, and why. */
function lost(error) {
  if (!live) throw error;
  const why = error instanceof TypeError ? "is gone" : `does not answer as it should: ${error.message}`;
  $("notice").textContent = `Not up to date: the server ${tidy(why)}.`;
}

async function show(facts) {
  showText(facts);
  showTrials(facts);
  $("controls").hidden = !live;
  $("pause").hidden = $("resume").hidden = Boolean(facts.study.imported); // nothing runs there
  $("pause").disabled = facts.study.control === "pause";
  $("resume").disabled = facts.study.control !== "pause";
  document.querySelector("main").hidden = false; // a chart takes its width from what is shown
  await drawAll(facts);
}

/** The slots of a cluster; nothing is asked for while no night runs. */
async function showCluster(running) {
  const cluster = running ? await (await request("cluster.json")).json() : null;
  $("cluster-section").hidden = !cluster;
  if (!cluster) return;
  $("cluster-now").textContent = typeset(cluster.sentence);
  $("cluster").replaceChildren(...(cluster.slots.rows.length ? [table(cluster.slots)] : []));
}

let polling = null;
const poll = () => (polling ??= ask().finally(() => (polling = null)));
async function ask() {
  try {
    const answer = await request("facts.json", { headers: etag ? { "If-None-Match": etag } : {} });
    if (answer.status !== 304) {
      const facts = await answer.json();
      const before = list.facts?.trials.find((trial) => trial.number === list.open);
      await show(facts);
      etag = answer.headers.get("ETag");
      const after = facts.trials.find((trial) => trial.number === list.open);
      if (list.open !== null && JSON.stringify(before) !== JSON.stringify(after)) await follow();
      document.documentElement.dataset.trials = facts.trials.length;
    }
    await showCluster(list.facts.study.running);
    $("notice").textContent = "";
  } catch (error) {
    lost(error);
  }
}

async function control(word) {
  const headers = { "Content-Type": "application/json", "X-Autoresearch": "1" };
  try {
    await request("control", { method: "POST", headers, body: JSON.stringify({ control: word }) });
    await poll();
  } catch (error) {
    lost(error);
  }
}

async function start() {
  $("filter").oninput = filter;
  $("outcome").onchange = filter;
  $("pause").onclick = () => control("pause");
  $("resume").onclick = () => control("run");
  $("trial").onclose = closed;
  $("trial").addEventListener("click", (event) => event.target === $("trial") && $("trial").close()); // beside it
  addEventListener("hashchange", follow);
  addEventListener("keydown", (event) => {
    if (list.open === null || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.matches("input, .box, pre")) return; // there the keys scroll
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dark.addEventListener("change", () => list.facts && drawAll(list.facts).then(follow).then(ready));
  if (live) {
    await poll();
    addEventListener("visibilitychange", () => document.hidden || poll());
    (async function again() {
      await new Promise((wake) => setTimeout(wake, POLL_MILLISECONDS));
      if (!document.hidden) await poll();
      again();
    })();
  } else await show(await unpack("facts"));
  await follow();
  ready();
}

function ready() {
  document.documentElement.dataset.ready = dark.matches ? "dark" : "light";
}

start().catch((error) => {
  $("notice").textContent = `This page could not be drawn: ${tidy(error.message)}. The same in plain text: report.md.`;
  throw error;
});
