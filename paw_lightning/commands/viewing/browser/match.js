// Which episodes are shown, in which order, and which of them are the same task played elsewhere.
import { store } from "./data.js";
import { state } from "./state.js";

export const OUTCOMES = {
  won: (row) => row.won,
  lost: (row) => !row.won,
  trouble: (row) => row.errors + row.malformed + row.cut_off > 0,
};

const taskKey = (row) => [row.split, row.environment, row.task_seed, row.member].join("|");
let tasks = null;
let tasksOf = null;

// Every time that this task was played for this member: in other iterations, in the other run.
export function sameTask(row) {
  if (tasksOf !== store.episodes) {
    tasks = Map.groupBy ? Map.groupBy(store.episodes, taskKey) : grouped(store.episodes, taskKey);
    tasksOf = store.episodes;
  }
  return tasks.get(taskKey(row)).filter((other) => other !== row);
}

function grouped(rows, key) {
  const groups = new Map();
  for (const row of rows) groups.set(key(row), [...(groups.get(key(row)) ?? []), row]);
  return groups;
}

// The other run's episode of the same task in the same iteration.
export function counterpart(row) {
  return sameTask(row).find((other) => other.run !== row.run && other.iteration === row.iteration);
}

// Pairs of the same task in the same iteration of both runs; each is listed once, as the episode of run A.
export const PAIRS = {
  onlyA: (row) => row.run === 0 && row.won && counterpart(row)?.won === false,
  onlyB: (row) => row.run === 0 && !row.won && counterpart(row)?.won === true,
  same: (row) => row.run === 0 && counterpart(row)?.won === row.won,
};

export function matching(rows, without = "") {
  const is = (name) => state[name] !== "" && name !== without;
  const tests = [];
  for (const name of ["split", "kind", "ended"]) if (is(name)) tests.push((row) => row[name] === state[name]);
  for (const name of ["iteration", "group"]) if (is(name)) tests.push((row) => String(row[name]) === state[name]);
  if (is("run")) tests.push((row) => "AB"[row.run] === state.run);
  if (is("outcome") && OUTCOMES[state.outcome]) tests.push(OUTCOMES[state.outcome]);
  if (is("beside") && PAIRS[state.beside]) tests.push(PAIRS[state.beside]);
  if (is("rmin")) tests.push((row) => row.return >= Number(state.rmin));
  if (is("rmax")) tests.push((row) => row.return <= Number(state.rmax));
  if (is("tmin")) tests.push((row) => row.turns >= Number(state.tmin));
  if (is("tmax")) tests.push((row) => row.turns <= Number(state.tmax));
  if (is("q") && state.q.trim()) tests.push(searched(state.q.trim().toLowerCase()));
  return rows.filter((row) => tests.every((test) => test(row)));
}

// A number is the task's number; anything else has to stand in the task, its kind or its group, word for word.
function searched(text) {
  const wanted = /^(?:task\s*|#)?(\d+)$/.exec(text);
  if (wanted) return (row) => row.task_seed === Number(wanted[1]);
  const words = text.split(/\s+/);
  return (row) => words.every((word) => row.searched.includes(word));
}

export function sorted(rows) {
  if (!state.sort) return rows;
  const down = state.sort.startsWith("-");
  const name = state.sort.replace("-", "");
  const value = name === "other" ? (row) => Number(counterpart(row)?.won ?? -1) : (row) => row[name];
  const order = new Intl.Collator("en", { numeric: true }).compare;
  const rank = (a, b) => (typeof a === "string" ? order(a, b) : Number(a ?? -Infinity) - Number(b ?? -Infinity) || 0);
  const keyed = rows.map((row) => [value(row), row]);
  keyed.sort(([a], [b]) => (down ? rank(b, a) : rank(a, b)));
  return keyed.map(([, row]) => row);
}

let last = { sign: "", rows: [], of: null };

// The rows of the table; the same list until a filter, the order or the data changes.
export function shownRows() {
  const { e, with: beside, turn, shade, prompts, curves, ...rest } = state;
  const sign = JSON.stringify(rest);
  if (last.sign !== sign || last.of !== store.episodes)
    last = { sign, rows: sorted(matching(store.episodes)), of: store.episodes };
  return last.rows;
}
