// Puts the page together, and keeps it up to date.
import { el, find, oneLine, plural } from "./elements.js";
import { addPart, gather, readPage, store, unpack } from "./data.js";
import { onChange, readAddress, state } from "./state.js";
import { drawCurves } from "./curves.js";
import { buildFilters, drawFilters } from "./filters.js";
import { drawTable, drawVisible, focusRow, keepPlace } from "./table.js";
import { drawTaught } from "./taught.js";
import { drawEpisode, showTurn } from "./episode.js";
import { buildHelp } from "./keys.js";

const EVERY_MS = 3000;
let shown = { e: null, with: "", turn: "", curves: null };
let listScroll = 0;

async function render() {
  const before = shown;
  shown = { e: state.e, with: state.with, turn: state.turn, curves: state.curves };
  if (before.e === "" && state.e) listScroll = scrollY;
  find("#list").hidden = Boolean(state.e);
  find("#episode").hidden = !state.e;
  if (!state.e) return drawList(before);
  const place = scrollY;
  await drawEpisode();
  if (before.e !== state.e || before.turn !== state.turn || before.with !== state.with) showTurn();
  else scrollTo(0, place);
  if (before.e !== state.e) find("#episode h2")?.focus({ preventScroll: true });
}

function drawList(before) {
  if (before.curves !== state.curves) drawCurves();
  drawFilters();
  drawTable();
  drawTaught();
  if (!before.e) return;
  scrollTo(0, listScroll);
  drawVisible();
  const row = store.byKey.get(before.e);
  if (row) focusRow(row);
}

function say() {
  const parts = [...store.parts.values()];
  const won = store.episodes.filter((row) => row.won).length;
  const runs =
    store.runs.length > 1
      ? store.runs
          .map((_, run) => `${"AB"[run]}: ${plural(store.episodes.filter((row) => row.run === run).length, "episode")}`)
          .join(", ")
      : "";
  find("#summary").textContent =
    runs ||
    `${plural(store.episodes.length, "episode")} in ${plural(parts.length, "file")}, ${won.toLocaleString("en")} won`;
}

// Asks the server for what is new; the page stays where it is.
async function update(known) {
  const status = find("#status");
  try {
    const runs = await (await fetch("/files")).json();
    const fresh = runs.flatMap((files, run) =>
      Object.entries(files).map(([name, stamp]) => [run, name, String(stamp)]),
    );
    const wanted = fresh.filter(([run, name, stamp]) => known.get(`${run}/${name}`) !== stamp);
    for (const [run, name, stamp] of wanted) {
      const answer = await fetch(`/part?run=${run}&name=${encodeURIComponent(name)}`);
      known.set(`${run}/${name}`, stamp);
      if (answer.ok) await addPart(run, await answer.text());
      else store.problem = await answer.text();
    }
    const curves = await Promise.all(runs.map(async (_, run) => (await fetch(`/curves?run=${run}`)).text()));
    const changed = curves.join() !== known.get("curves");
    known.set("curves", curves.join());
    if (changed) store.curves = await Promise.all(curves.map(unpack));
    if (changed || wanted.length) refresh(wanted.length > 0);
    status.textContent =
      store.problem ??
      (store.episodes.length
        ? "live: new iterations appear by themselves"
        : "live: waiting for the first rollout file");
  } catch {
    status.textContent = "the server does not answer; what was read stays";
  }
  setTimeout(() => update(known), EVERY_MS);
}

function refresh(episodes) {
  keepPlace(() => {
    if (episodes) gather();
    say();
    shown.curves = null;
    if (!state.e) drawList(shown);
    else if (episodes && !find("#episode h2")) render();
  });
}

function buildTheme() {
  const kept = {
    get: () => {
      try {
        return localStorage.getItem("theme");
      } catch {
        return null;
      }
    },
    set: (value) => {
      try {
        localStorage.setItem("theme", value);
      } catch {
        /* a page from a file may have no storage */
      }
    },
  };
  const dark = () =>
    (document.documentElement.dataset.theme ??
      (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  if (["dark", "light"].includes(kept.get())) document.documentElement.dataset.theme = kept.get();
  const name = () => (find("#theme").textContent = dark() ? "Light" : "Dark");
  find("#theme").addEventListener("click", () => {
    kept.set((document.documentElement.dataset.theme = dark() ? "light" : "dark"));
    name();
  });
  name();
}

async function start() {
  buildTheme();
  buildFilters();
  buildHelp();
  find("#skip").addEventListener("click", (event) => (event.preventDefault(), find("#episodes-title").focus()));
  find("#taught").addEventListener("toggle", drawTaught);
  addEventListener("scroll", drawVisible, { passive: true });
  addEventListener("resize", drawTable);
  try {
    await readPage();
  } catch (error) {
    find("#status").textContent =
      `The page's data cannot be read (${error.message}); wanted a browser of 2024 or newer, and a whole file.`;
    return;
  }
  if ("AB"[store.runs.length - 1] === "B")
    find(".top h1").replaceChildren(...store.runs.map((run, i) => el("span", {}, `${"AB"[i]} · ${oneLine(run)}`)));
  say();
  readAddress();
  onChange(render);
  if (store.live) await update(new Map());
  await render();
  document.documentElement.dataset.ready = "true";
}

start();
