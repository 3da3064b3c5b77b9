// The view of one episode, alone or beside another.
import { button, el, find, number, oneLine, redrawn, signed } from "./elements.js";
import { openEpisode, store } from "./data.js";
import { go, state } from "./state.js";
import { shownRows } from "./match.js";
import { outcome } from "./table.js";
import { divergence, story } from "./story.js";
import { drawTranscript } from "./transcript.js";
import { toolbar } from "./toolbar.js";
import { besideButton, groupList, taskList } from "./others.js";
import { hideInspector, watchTokens } from "./inspector.js";

let drawing = 0;

export async function drawEpisode() {
  const mine = ++drawing;
  const view = find("#episode");
  const row = store.byKey.get(state.e);
  hideInspector();
  if (!row)
    return view.replaceChildren(
      topBar(null),
      el("p", {}, `The link names the episode ${oneLine(state.e, 80)}, which is not in this page.`),
    );
  const rows = [row, store.byKey.get(state.with)].filter(Boolean);
  const episodes = await Promise.all(rows.map(openEpisode));
  if (mine !== drawing) return;
  const group = row.part.rows.filter((other) => other.group === row.group);
  const { view: transcript, most } = drawTranscript(episodes);
  watchTokens(transcript);
  const about = el(
    "div",
    { class: "about" },
    factList(episodes[0]),
    tellStory(episodes[0], group),
    episodes[1] && tellPair(episodes),
  );
  const main = el("div", { class: "reading" }, toolbar(episodes, most), transcript);
  const aside = el("aside", { "aria-label": "Other episodes" }, groupList(row, group), taskList(row));
  redrawn(
    view,
    topBar(row),
    el("h2", { tabindex: -1 }, oneLine(row.task, 600) || "(no task text)"),
    about,
    el("div", { class: "layout" }, main, aside),
  );
}

// After drawing: the turn that the address names, else the top.
export function showTurn() {
  const turn = state.turn && find(`#episode [data-turn="${CSS.escape(state.turn)}"]`);
  if (turn) turn.scrollIntoView({ block: "center" });
  else scrollTo(0, 0);
}

function topBar(row) {
  const rows = shownRows();
  const at = rows.indexOf(row);
  const place = at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  const copy = button("Copy link", async () => {
    await navigator.clipboard?.writeText(location.href).then(
      () => (copy.textContent = "Copied"),
      () => (copy.textContent = "Copy the address"),
    );
  });
  return el(
    "nav",
    { class: "bar", "aria-label": "Episodes" },
    button("← Episodes", back, { "aria-keyshortcuts": "Escape" }),
    button(worded("Previous", "‹"), () => stepEpisode(-1), {
      disabled: at <= 0,
      "aria-keyshortcuts": "k",
      "aria-label": "Previous",
    }),
    button(worded("Next", "›"), () => stepEpisode(1), {
      disabled: at < 0 || at === rows.length - 1,
      "aria-keyshortcuts": "j",
      "aria-label": "Next",
    }),
    el("span", { class: "quiet" }, place),
    copy,
  );
}

const worded = (long, short) => [el("span", { class: "long" }, long), el("span", { class: "short" }, short)];

export const back = () => go({ e: "", with: "", turn: "" });

export function stepEpisode(by) {
  const rows = shownRows();
  const next = rows[rows.findIndex((row) => row.key === state.e) + by];
  if (next && rows.some((row) => row.key === state.e)) go({ e: next.key, with: "", turn: "" }, { replace: true });
}

function factList(episode) {
  const { row } = episode;
  const { part } = row;
  const facts = [
    ["Outcome", outcome(row)],
    ["Return", number(row.return) + (episode.max_return == null ? "" : ` of ${number(episode.max_return)}`)],
    ["Turns", row.turns],
    ["Ended", ["won", "lost"].includes(row.ended) ? "" : oneLine(row.ended, 80)],
    ["Run", store.runs.length > 1 ? "AB"[row.run] : ""],
    ["Played", `${part.split}, iteration ${row.iteration}, at temperature ${number(part.temperature)}`],
    ["Task", `${row.task_seed}, member ${row.member}`],
    ["Kind", oneLine(row.kind, 80)],
    ["Environment", oneLine(row.environment, 80)],
    [
      "Group",
      row.group_key && oneLine(row.group_key) !== String(row.task_seed)
        ? `${row.group}: ${oneLine(row.group_key, 80)}`
        : row.group,
    ],
    ["λ", row.coefficient == null ? "" : number(row.coefficient)],
    ["Advantage", row.advantage == null ? "" : signed(row.advantage)],
    ["Retries", row.errors || ""],
  ];
  return el(
    "dl",
    { class: "facts" },
    ...facts
      .filter(([, value]) => value !== "")
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}

const turnLink = (turn) =>
  button(String(turn), () => go({ turn: String(turn) }, { replace: true }), {
    class: "plain",
    "aria-label": `turn ${turn}`,
  });

function tellStory(episode, group) {
  const lines = story(episode, group).map(({ text, turns, beside }) =>
    el(
      "li",
      {},
      text,
      turns?.length
        ? [
            ": turn ",
            ...turns.slice(0, 12).flatMap((turn, i) => (i ? [", ", turnLink(turn)] : [turnLink(turn)])),
            turns.length > 12 && ", …",
          ]
        : null,
      beside && [" ", besideButton(beside)],
    ),
  );
  return el("ul", { class: "story" }, ...lines);
}

function tellPair(episodes) {
  const { text, turn } = divergence(...episodes);
  return el(
    "p",
    { class: "pair" },
    el("strong", {}, "Side by side: "),
    text,
    " ",
    turn ? button(`Go to turn ${turn}`, () => go({ turn: String(turn) }, { replace: true })) : null,
    " ",
    button("Close the other", () => go({ with: "" })),
  );
}
