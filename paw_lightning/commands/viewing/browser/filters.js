// The form above the table. Every choice says how many episodes it would leave.
import { button, el, find, oneLine, plural, redrawn } from "./elements.js";
import { store } from "./data.js";
import { filtered, go, noFilters, state } from "./state.js";
import { OUTCOMES, PAIRS, matching } from "./match.js";

const SELECTS = { run: "Run", split: "Split", iteration: "Iteration", kind: "Kind", ended: "Ended" };
const NUMBERS = { group: "Group", rmin: "Return from", rmax: "Return to", tmin: "Turns from", tmax: "Turns to" };
const PAIR_WORDS = { onlyA: "only A won", onlyB: "only B won", same: "both alike" };

export function buildFilters() {
  const typed = (name) => (event) => go({ [name]: event.target.value }, { replace: true });
  const search = el("input", {
    type: "search",
    id: "f-q",
    oninput: typed("q"),
    placeholder: "task, kind, group; or a task's number",
    "aria-keyshortcuts": "/",
  });
  const choice = (name, title) =>
    el(
      "label",
      { id: `l-${name}` },
      title,
      el("select", { id: `f-${name}`, onchange: (event) => go({ [name]: event.target.value }) }),
    );
  const field = (name, title) =>
    el(
      "label",
      {},
      title,
      el("input", { id: `f-${name}`, type: "number", step: "any", inputmode: "decimal", oninput: typed(name) }),
    );
  find("#filters").replaceChildren(
    el("label", { class: "search" }, "Search", search),
    el("div", { id: "outcomes", role: "group", "aria-label": "Outcome" }),
    ...Object.entries(SELECTS).map(([name, title]) => choice(name, title)),
    choice("beside", "Same task in both runs"),
    el(
      "details",
      { id: "numbers" },
      el("summary", {}, "Numbers"),
      el("div", {}, ...Object.entries(NUMBERS).map(([name, title]) => field(name, title))),
    ),
    button("Clear", () => go(noFilters()), { id: "clear" }),
  );
  find("#filters").addEventListener("submit", (event) => event.preventDefault());
}

export function drawFilters() {
  for (const name of Object.keys(SELECTS)) fillChoice(name, counts(name));
  drawPairs();
  find("#l-run").hidden = store.runs.length < 2;
  for (const name of ["q", ...Object.keys(NUMBERS)]) {
    const input = find(`#f-${name}`);
    if (input.value !== state[name]) input.value = state[name];
  }
  if (Object.keys(NUMBERS).some((name) => state[name] !== "")) find("#numbers").open = true;
  find("#clear").hidden = !filtered();
  drawOutcomes();
}

// [value, how many] of a column among the episodes that the other filters leave
function counts(name) {
  const found = new Map();
  for (const row of store.episodes) found.set(row[name], 0);
  for (const row of matching(store.episodes, name)) found.set(row[name], found.get(row[name]) + 1);
  const values = [...found.entries()].filter(([value]) => value !== "");
  return values.sort(([a], [b]) => (typeof a === "number" ? a - b : a < b ? -1 : 1));
}

function fillChoice(name, values) {
  const text = (value) =>
    name === "run"
      ? `${"AB"[value]} · ${oneLine(store.runs[value], 60)}`
      : name === "iteration"
        ? value
        : oneLine(value, 60);
  const options = values.map(([value, count]) => [
    name === "run" ? "AB"[value] : String(value),
    `${text(value)} (${count.toLocaleString("en")})`,
  ]);
  fill(name, options, options.length > 1);
}

function fill(name, options, useful) {
  const select = find(`#f-${name}`);
  if (state[name] && !options.some(([value]) => value === state[name]))
    options.push([state[name], oneLine(state[name], 60)]);
  select.replaceChildren(
    el("option", { value: "" }, "all"),
    ...options.map(([value, text]) => el("option", { value }, text)),
  );
  select.value = state[name];
  find(`#l-${name}`).hidden = !useful && !state[name];
}

function drawPairs() {
  const rows = store.runs.length > 1 ? matching(store.episodes, "beside") : [];
  const pairs = Object.entries(PAIR_WORDS).map(([key, words]) => [
    key,
    `${words} (${rows.filter(PAIRS[key]).length.toLocaleString("en")})`,
  ]);
  fill("beside", pairs, store.runs.length > 1);
}

// Tasks that were lost to their environment, and updates that broke off: neither has an episode to show it.
function drawFailures() {
  const parts = [...store.parts.values()];
  const said = (part, why) => el("li", {}, `${part.split} ${part.iteration}: ${oneLine(why, 600)}`);
  const lost = parts.flatMap((part) => (part.failures ?? []).map((why) => said(part, why)));
  const broken = parts.filter((part) => part.error).map((part) => said(part, `its update broke off: ${part.error}`));
  const list = el(
    "details",
    { open: Boolean(find("#failures details")?.open) },
    el("summary", {}, `${plural(lost.length, "task")} could not be played`),
    el("ul", {}, ...lost),
  );
  find("#failures").replaceChildren(
    ...(broken.length ? [el("ul", { class: "lost" }, ...broken)] : []),
    ...(lost.length ? [list] : []),
  );
}

const OUTCOME_WORDS = { "": "All", won: "Won", lost: "Lost", trouble: "Trouble" };

function drawOutcomes() {
  const rows = matching(store.episodes, "outcome");
  const buttons = Object.entries(OUTCOME_WORDS).map(([value, word]) => {
    const count = value ? rows.filter(OUTCOMES[value]).length : rows.length;
    const about = value === "trouble" ? "malformed or cut-off actions, or tried again as the environment failed" : null;
    return button(`${word} ${count.toLocaleString("en")}`, () => go({ outcome: value }), {
      "data-outcome": value,
      "aria-pressed": String(state.outcome === value),
      title: about,
    });
  });
  redrawn(find("#outcomes"), ...buttons);
  drawFailures();
}
