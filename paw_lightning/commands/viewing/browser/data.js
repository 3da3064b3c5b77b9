// The run's data: packed in the page or asked for, a table of episodes at once, an episode only when it is opened.
import { find, visible } from "./elements.js";

// base64 of gzip of JSON -> data
export async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

export const store = { runs: [], live: false, parts: new Map(), episodes: [], byKey: new Map(), curves: [] };

// Everything that is packed into the page.
export async function readPage() {
  const about = await unpack(find("[data-kind=about]").textContent);
  store.runs = about.runs;
  store.live = about.live;
  const curves = [...document.querySelectorAll("[data-kind=curves]")];
  store.curves = await Promise.all(curves.map((script) => unpack(script.textContent)));
  const parts = [...document.querySelectorAll("[data-kind=part]")];
  await Promise.all(parts.map((script) => addPart(Number(script.dataset.run), script.textContent)));
  gather();
}

// One rollout file: its table now, its texts and groups later.
export async function addPart(run, text) {
  const lines = text.split("\n");
  const table = await unpack(lines[0]);
  const part = { ...table, run, lines, texts: null, opened: new Map() };
  part.label = partLabel(part);
  part.rows = rowsOf(part);
  store.parts.set(`${run}/${part.name}`, part);
}

// "val", or "test at 0.4" where the file's name tells temperatures apart.
function partLabel(part) {
  const temperature = /-t([\d.]+)$/.exec(part.name);
  return temperature ? `${part.split} at ${temperature[1]}` : part.split;
}

const DEFAULTS = {
  group_key: "",
  environment: "",
  task: "",
  kind: "",
  ended: "",
  return: 0,
  coefficient: 0,
  advantage: 0,
};

function rowsOf(part) {
  const { columns } = part;
  const names = Object.keys(columns);
  return (columns.number ?? []).map((_, i) => {
    const row = { ...DEFAULTS, group: 0, task_seed: 0, member: 0, won: false, left_out: false, turns: 0 };
    for (const name of ["inadmissible", "malformed", "cut_off", "errors", "chunk"]) row[name] = 0;
    for (const name of names) row[name] = columns[name][i];
    row.part = part;
    if (part.split !== "train") row.coefficient = row.advantage = null;
    row.run = part.run;
    row.split = part.label;
    row.iteration = part.iteration ?? 0;
    row.key = `${"AB"[part.run]}/${part.name}/${row.number}`;
    row.searched = visible(`${row.task} ${row.kind} ${row.group_key}`).toLowerCase();
    return row;
  });
}

// The episodes of all parts: the newest iteration first, validation behind training, then as they were played.
export function gather() {
  const rank = (part) => (part.split === "train" ? 0 : part.split === "val" ? 1 : 2);
  const parts = [...store.parts.values()];
  parts.sort(
    (a, b) =>
      (b.iteration ?? 0) - (a.iteration ?? 0) ||
      rank(a) - rank(b) ||
      (a.name < b.name ? -1 : a.name > b.name ? 1 : a.run - b.run),
  );
  store.episodes = parts.flatMap((part) => part.rows);
  store.byKey = new Map(store.episodes.map((row) => [row.key, row]));
}

export async function textsOf(part) {
  part.texts ??= unpack(part.lines[1]);
  return part.texts;
}

// The whole episode of a row, its prompts spelled out: {...episode, turns: [{..., prompt_ids, shared}]}
export async function openEpisode(row) {
  const { part } = row;
  if (!part.opened.has(row.chunk)) part.opened.set(row.chunk, unpack(part.lines[2 + row.chunk]));
  const group = await part.opened.get(row.chunk);
  const first = part.rows.findIndex((other) => other.chunk === row.chunk);
  const episode = group[part.rows.indexOf(row) - first];
  return { ...episode, row, texts: await textsOf(part), turns: spelled(episode.turns ?? []) };
}

function spelled(turns) {
  let before = [];
  return turns.map((turn) => {
    const shared = turn.prompt?.shared ?? 0;
    const prompt_ids = turn.prompt ? [...before.slice(0, shared), ...(turn.prompt.ids ?? [])] : [];
    before = prompt_ids;
    return { ...turn, prompt_ids, shared };
  });
}
