// Curves of the runs: six panels first, any other on demand. Runs differ by colour and letter, validation is dashed.
import { el, find, number, redrawn, svg } from "./elements.js";
import { store } from "./data.js";
import { go, state } from "./state.js";

const PANELS = [
  { title: "Success", tags: ["rollout/success_rate", "val/success_rate"], from0: true },
  { title: "Return", tags: ["rollout/return", "val/return"] },
  { title: "Entropy of the policy (nats)", tags: ["train/entropy"], from0: true },
  { title: "World-model loss", tags: ["train/wm_loss"], from0: true },
  { title: "Coefficient λ", tags: ["wm/coefficient"], from0: true },
  {
    title: "Targets: share selected, still taught",
    tags: ["wm/selected_fraction", "wm/active_token_fraction"],
    from0: true,
  },
];
const WORDS = {
  "rollout/success_rate": "training",
  "rollout/return": "training",
  "val/success_rate": "validation",
  "val/return": "validation",
  "train/entropy": "entropy",
  "train/wm_loss": "loss",
  "wm/coefficient": "mean λ",
  "wm/active_token_fraction": "still taught",
  "wm/selected_fraction": "selected",
};
const DASHED = new Set(["val/success_rate", "val/return", "wm/active_token_fraction"]);
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [400, 132, 42, 8, 8, 20];

// {tag: [[x, value]]} of a run: of its event files, else of the headers of its rollout files.
function curvesOf(run) {
  const events = store.curves[run] ?? {};
  if (Object.keys(events).length) return events;
  const made = {};
  for (const part of store.parts.values()) {
    if (part.run !== run) continue;
    for (const [tag, value] of Object.entries(part.metrics ?? {}))
      (made[tag] ??= []).push([part.iteration ?? 0, value]);
  }
  for (const points of Object.values(made)) points.sort((a, b) => a[0] - b[0]);
  return made;
}

export function drawCurves() {
  const runs = store.runs.map((_, run) => curvesOf(run));
  const chosen = state.curves ? state.curves.split(",") : [];
  const panels = [...PANELS, ...chosen.map((tag) => ({ title: tag, tags: [tag] }))];
  const drawn = panels.map((panel) => drawPanel(panel, runs)).filter(Boolean);
  find("#curves").replaceChildren(...drawn);
  find("#curves").parentElement.hidden = drawn.length === 0;
  drawChoices(runs, chosen);
}

function drawChoices(runs, chosen) {
  const first = new Set(PANELS.flatMap((panel) => panel.tags));
  const tags = [...new Set(runs.flatMap((curves) => Object.keys(curves)))].filter((tag) => !first.has(tag)).sort();
  find("#more-curves").hidden = tags.length === 0;
  find("#more-curves summary").textContent = `More curves (${tags.length})`;
  const choose = (tag, on) =>
    go({ curves: [...chosen.filter((other) => other !== tag), ...(on ? [tag] : [])].join(",") });
  const box = (tag) =>
    el(
      "label",
      {},
      el("input", {
        type: "checkbox",
        "data-tag": tag,
        checked: chosen.includes(tag),
        onchange: (event) => choose(tag, event.target.checked),
      }),
      tag,
    );
  redrawn(find("#more-curves .choices"), ...tags.map(box));
}

function seriesOf(panel, runs) {
  const many = runs.length > 1;
  return runs.flatMap((curves, run) =>
    panel.tags.flatMap((tag) => {
      const points = (curves[tag] ?? []).filter(([, value]) => value != null);
      const name = `${many ? "AB"[run] + " " : ""}${WORDS[tag] ?? "value"}`;
      return points.length ? [{ run, name, points, dashed: DASHED.has(tag) }] : [];
    }),
  );
}

function scales(panel, series) {
  const xs = series.flatMap(({ points }) => points.map(([x]) => x));
  const ys = series.flatMap(({ points }) => points.map(([, y]) => y));
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (panel.from0 && y0 >= 0) y0 = 0;
  if (y1 === y0) [y0, y1] = y0 === 0 ? [0, 1] : [Math.min(y0, 0), Math.max(y1, 0)];
  const wide = WIDTH - LEFT - RIGHT;
  const high = HEIGHT - TOP - BOTTOM;
  const x = (value) => LEFT + (x1 === x0 ? wide / 2 : ((value - x0) / (x1 - x0)) * wide);
  const y = (value) => TOP + high - ((value - y0) / (y1 - y0)) * high;
  return { x, y, x0, x1, y0, y1 };
}

function drawPanel(panel, runs) {
  const series = seriesOf(panel, runs);
  if (!series.length) return null;
  const { x, y, x0, x1, y0, y1 } = scales(panel, series);
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const middle = (y0 + y1) / 2;
  const ticks = [y0, middle, y1].map((value) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, 2)),
  ]);
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0, "aria-label": described(panel, series) },
    ticks,
    svg("text", { x: LEFT, y: HEIGHT - 4 }, number(x0, 6)),
    x1 > x0 && svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, number(x1, 6)),
    series.map(({ run, points, dashed }) => line(run, points, dashed, x, y)),
    cursor,
  );
  const values = series.map(() => el("b"));
  const legend = series.map(({ name, run, dashed }, i) => el("li", {}, swatch(run, dashed), `${name} `, values[i]));
  const place = el("span", { class: "quiet" });
  makeReadable(picture, series, { x, cursor, values, place });
  return el(
    "figure",
    {},
    el("figcaption", {}, el("strong", {}, panel.title), place),
    el("ul", { class: "legend" }, legend),
    picture,
  );
}

function line(run, points, dashed, x, y) {
  const look = `line run${run}${dashed ? " dashed" : ""}`;
  const path = svg("polyline", {
    class: look,
    points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "),
  });
  const dots =
    points.length > 60
      ? []
      : points.map(([a, b]) => svg("circle", { class: look, cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 2 }));
  return [path, ...dots];
}

const swatch = (run, dashed) =>
  svg(
    "svg",
    { class: "swatch", viewBox: "0 0 20 8", "aria-hidden": "true" },
    svg("line", { class: `line run${run}${dashed ? " dashed" : ""}`, x1: 0, x2: 20, y1: 4, y2: 4 }),
  );

function described(panel, series) {
  const said = series.map(({ name, points }) => `${name} from ${number(points[0][1])} to ${number(points.at(-1)[1])}`);
  return `${panel.title}: ${said.join("; ")}. Arrow keys read single values.`;
}

// Shows the values beside the pointer, or at the place that the arrow keys have reached; the last ones otherwise.
function makeReadable(picture, series, { x, cursor, values, place }) {
  const steps = [...new Set(series.flatMap(({ points }) => points.map(([step]) => step)))].sort((a, b) => a - b);
  const upTo = (points, step) => points.findLast(([other]) => other <= step);
  let at = steps.length - 1;
  const show = (index, marked) => {
    at = Math.max(0, Math.min(steps.length - 1, index));
    series.forEach(({ points }, i) => (values[i].textContent = number(upTo(points, steps[at])?.[1])));
    place.textContent = `iteration ${steps[at]}`;
    cursor.setAttribute("visibility", marked ? "visible" : "hidden");
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(steps[at]));
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const wanted = ((event.clientX - box.left) / box.width) * WIDTH;
    const distance = steps.map((step) => Math.abs(x(step) - wanted));
    show(distance.indexOf(Math.min(...distance)), true);
  });
  picture.addEventListener("pointerleave", () => show(steps.length - 1, false));
  picture.addEventListener("blur", () => show(steps.length - 1, false));
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) (event.preventDefault(), event.stopPropagation(), show(at + move, true));
  });
  show(at, false);
}
