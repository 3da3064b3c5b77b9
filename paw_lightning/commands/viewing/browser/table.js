// The table of episodes. Only the rows that can be seen are in the document, however many there are.
import { button, el, find, number, oneLine, plural, redrawn, signed } from "./elements.js";
import { store } from "./data.js";
import { go, state } from "./state.js";
import { counterpart, shownRows } from "./match.js";

const COLUMNS = [
  { name: "won", title: "Outcome", cell: (row) => outcome(row) },
  {
    name: "other",
    title: "Other run",
    cell: (row) => (counterpart(row) ? outcome(counterpart(row)) : "–"),
    only: () => store.runs.length > 1,
    wide: true,
  },
  { name: "run", title: "Run", cell: (row) => "AB"[row.run], only: () => store.runs.length > 1 },
  { name: "iteration", title: "Iteration", short: "It.", cell: (row) => row.iteration, right: true },
  { name: "split", title: "Split", cell: (row) => row.split, wide: true },
  { name: "task_seed", title: "Task", cell: (row) => row.task_seed, right: true },
  { name: "member", title: "Member", cell: (row) => row.member, right: true, wide: true },
  { name: "task", title: "What to do", cell: (row) => link(row), class: "task" },
  {
    name: "kind",
    title: "Kind",
    cell: (row) => oneLine(row.kind, 60),
    wide: true,
    only: () => store.episodes.some((row) => row.kind),
  },
  { name: "ended", title: "Ended", cell: (row) => oneLine(row.ended, 60), wide: true },
  { name: "return", title: "Return", cell: (row) => number(row.return), right: true, wide: true },
  { name: "turns", title: "Turns", cell: (row) => row.turns, right: true },
  { name: "coefficient", title: "λ", cell: (row) => number(row.coefficient, 2), right: true, wide: true },
  {
    name: "advantage",
    title: "Advantage",
    cell: (row) => (row.advantage == null ? "–" : signed(row.advantage)),
    right: true,
    wide: true,
  },
  {
    name: "errors",
    title: "Trouble",
    cell: (row) => trouble(row),
    wide: true,
    only: () => store.episodes.some((row) => trouble(row)),
  },
];

export function outcome(row) {
  return el("span", { class: row.won ? "won" : "lost" }, row.won ? "✓ won" : "✗ lost");
}

function trouble(row) {
  const said = [
    row.errors && plural(row.errors, "retry", "retries"),
    row.malformed && `${row.malformed} malformed`,
    row.cut_off && `${row.cut_off} cut off`,
  ];
  return said.filter(Boolean).join(", ");
}

const link = (row) =>
  button(oneLine(row.task) || "(no task text)", (event) => (event.stopPropagation(), openRow(row)), {
    class: "plain",
    "data-key": row.key,
  });

export const openRow = (row) => go({ e: row.key, with: "", turn: "" });

let shownColumns = [];
let drawnFrom = -1;

export function drawTable() {
  shownColumns = COLUMNS.filter((column) => !column.only || column.only());
  redrawn(find("#episodes thead"), el("tr", {}, ...shownColumns.map(header)));
  const rows = shownRows();
  find("#episodes").setAttribute("aria-rowcount", rows.length + 1);
  find("#nothing").textContent = rows.length
    ? ""
    : store.episodes.length
      ? "No episode is left by these filters."
      : "No episode has been written yet.";
  drawnFrom = -1;
  drawVisible();
}

function header({ name, title, short, right, wide }) {
  const way = state.sort === name ? "ascending" : state.sort === `-${name}` ? "descending" : "none";
  const next = { none: `-${name}`, descending: name, ascending: "" }[way];
  const mark = { none: "", descending: " ↓", ascending: " ↑" }[way];
  const text = short
    ? [el("span", { class: "long" }, title), el("span", { class: "short", "aria-hidden": "true" }, short)]
    : [title];
  const sort = el(
    "button",
    { type: "button", class: "plain", onclick: () => go({ sort: next }), "data-sort": name },
    ...text,
    mark,
  );
  return el("th", { scope: "col", "aria-sort": way, class: look({ right, wide }) }, sort);
}

const look = (column) => [column.right && "right", column.wide && "wide", column.class].filter(Boolean).join(" ");

// Draws the rows around what is on the screen, and blank rows as high as all others above and below.
export function drawVisible() {
  const body = find("#episodes tbody");
  if (find("#list").hidden) return;
  const rows = shownRows();
  const height = rowHeight();
  const top = -body.getBoundingClientRect().top;
  const screen = Math.ceil(innerHeight / height);
  const first = Math.max(0, Math.min(rows.length - screen, Math.floor(top / height)) - screen);
  const from = first - (first % 10);
  if (from === drawnFrom) return;
  drawnFrom = from;
  const until = Math.min(rows.length, from + 3 * screen + 10);
  const focused = document.activeElement?.dataset?.key;
  const blank = (count) =>
    el("tr", { "aria-hidden": "true" }, el("td", { colspan: shownColumns.length, class: "blank" }));
  const [above, below] = [blank(), blank()];
  above.firstChild.style.height = `${from * height}px`;
  below.firstChild.style.height = `${(rows.length - until) * height}px`;
  body.replaceChildren(
    ...(from ? [above] : []),
    ...rows.slice(from, until).map((row, i) => drawRow(row, from + i)),
    ...(until < rows.length ? [below] : []),
  );
  if (focused) find(`[data-key="${CSS.escape(focused)}"]`, body)?.focus({ preventScroll: true });
}

const rowHeight = () => parseFloat(getComputedStyle(find("#episodes")).getPropertyValue("--row"));

function drawRow(row, index) {
  const cells = shownColumns.map((column) => el("td", { class: look(column) }, column.cell(row)));
  const attributes = {
    "aria-rowindex": index + 2,
    onclick: () => openRow(row),
    class: row.left_out ? "left-out" : null,
  };
  return el("tr", attributes, ...cells);
}

// Redraws with what is new, and keeps on the screen what was there.
export function keepPlace(change) {
  const passed = Math.floor(-find("#episodes tbody").getBoundingClientRect().top / rowHeight());
  const row = shownRows()[passed];
  change();
  const moved = row ? shownRows().indexOf(row) - passed : 0;
  if (moved > -passed) scrollBy(0, moved * rowHeight());
}

// Move the focus to another row, as j and k do.
export function stepRow(by) {
  const rows = shownRows();
  if (!rows.length) return;
  const now = rows.findIndex((row) => row.key === document.activeElement?.dataset?.key);
  focusRow(rows[Math.max(0, Math.min(rows.length - 1, now + by))]);
}

export function focusRow(row) {
  const index = shownRows().indexOf(row);
  if (index < 0) return;
  const body = find("#episodes tbody");
  const height = rowHeight();
  const place = body.getBoundingClientRect().top + index * height;
  if (place < 60 || place > innerHeight - 2 * height) scrollBy(0, place - innerHeight / 2);
  drawVisible();
  find(`[data-key="${CSS.escape(row.key)}"]`, body)?.focus({ preventScroll: true });
}
