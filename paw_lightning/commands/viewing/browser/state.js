// What is shown: read from the address, written to the address, so that a link restores it and Back goes back.

const DEFAULT = {
  q: "",
  run: "",
  split: "",
  iteration: "",
  kind: "",
  ended: "",
  outcome: "",
  beside: "",
  group: "",
  rmin: "",
  rmax: "",
  tmin: "",
  tmax: "",
  sort: "",
  curves: "",
  e: "",
  with: "",
  turn: "",
  shade: "teaches",
  prompts: "",
};
export const FILTERS = [
  "q",
  "run",
  "split",
  "iteration",
  "kind",
  "ended",
  "outcome",
  "beside",
  "group",
  "rmin",
  "rmax",
  "tmin",
  "tmax",
];

export const state = { ...DEFAULT };
let redraw = () => {};

export function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULT)) state[name] = given.get(name) ?? DEFAULT[name];
}

function address(changed) {
  const wanted = { ...state, ...changed };
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(wanted)) if (value !== DEFAULT[name]) words.set(name, value);
  return `#${words}`;
}

// Change what is shown; with `replace` Back does not stop here (typing, stepping from one episode to the next).
export function go(changed, { replace = false } = {}) {
  const to = address(changed);
  if (to !== (location.hash || "#")) history[replace ? "replaceState" : "pushState"](null, "", to);
  readAddress();
  redraw();
}

export function onChange(whenChanged) {
  redraw = whenChanged;
  for (const event of ["popstate", "hashchange"]) addEventListener(event, () => (readAddress(), redraw()));
}

export const filtered = () => FILTERS.some((name) => state[name] !== "");
export const noFilters = () => Object.fromEntries(FILTERS.map((name) => [name, ""]));
