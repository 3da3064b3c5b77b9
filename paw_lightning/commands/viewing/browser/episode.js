// The view of one episode, alone or beside another.
import { button, el, find, number, oneLine, plural, signed } from "./elements.js";
import { openEpisode, store } from "./data.js";
import { go, state } from "./state.js";
import { sameTask, shownRows } from "./match.js";
import { outcome } from "./table.js";
import { divergence, story } from "./story.js";
import { drawTranscript, nameOf } from "./transcript.js";
import { hideInspector, watchTokens } from "./inspector.js";
import { ROLES, SHADES } from "./tokens.js";

let drawing = 0;

export async function drawEpisode() {
  const mine = ++drawing;
  const view = find("#episode");
  const row = store.byKey.get(state.e);
  hideInspector();
  if (!row) return view.replaceChildren(topBar(null), el("p", {}, `The link names the episode ${oneLine(state.e, 80)}, which is not in this page.`));
  const rows = [row, store.byKey.get(state.with)].filter(Boolean);
  const episodes = await Promise.all(rows.map(openEpisode));
  if (mine !== drawing) return;
  const group = row.part.rows.filter((other) => other.group === row.group);
  const { view: transcript, most } = drawTranscript(episodes);
  watchTokens(transcript);
  const about = el("div", { class: "about" }, factList(episodes[0]), tellStory(episodes[0], group), episodes[1] && tellPair(episodes));
  const main = el("div", { class: "reading" }, toolbar(episodes, most), transcript);
  const aside = el("aside", { "aria-label": "Other episodes" }, groupList(row, group), taskList(row));
  view.replaceChildren(topBar(row), el("h2", { tabindex: -1 }, oneLine(row.task, 600) || "(no task text)"), about, el("div", { class: "layout" }, main, aside));
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
    await navigator.clipboard?.writeText(location.href).then(() => (copy.textContent = "Copied"), () => (copy.textContent = "Copy the address"));
  });
  return el(
    "nav", { class: "bar", "aria-label": "Episodes" },
    button("← Episodes", back, { "aria-keyshortcuts": "Escape" }),
    button(worded("Previous", "‹"), () => stepEpisode(-1), { disabled: at <= 0, "aria-keyshortcuts": "k", "aria-label": "Previous" }),
    button(worded("Next", "›"), () => stepEpisode(1), { disabled: at < 0 || at === rows.length - 1, "aria-keyshortcuts": "j", "aria-label": "Next" }),
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
    ["Group", row.group_key && oneLine(row.group_key) !== String(row.task_seed) ? `${row.group}: ${oneLine(row.group_key, 80)}` : row.group],
    ["λ", row.coefficient == null ? "" : number(row.coefficient)],
    ["Advantage", row.advantage == null ? "" : signed(row.advantage)],
    ["Retries", row.errors || ""],
  ];
  return el("dl", { class: "facts" }, ...facts.filter(([, value]) => value !== "").map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

const turnLink = (turn) => button(String(turn), () => go({ turn: String(turn) }, { replace: true }), { class: "plain", "aria-label": `turn ${turn}` });

function tellStory(episode, group) {
  const lines = story(episode, group).map(({ text, turns, beside }) =>
    el("li", {}, text, turns?.length ? [": turn ", ...turns.slice(0, 12).flatMap((turn, i) => (i ? [", ", turnLink(turn)] : [turnLink(turn)])), turns.length > 12 && ", …"] : null, beside && [" ", besideButton(beside)]),
  );
  return el("ul", { class: "story" }, ...lines);
}

function tellPair(episodes) {
  const { text, turn } = divergence(...episodes);
  return el("p", { class: "pair" }, el("strong", {}, "Side by side: "), text, " ", turn ? button(`Go to turn ${turn}`, () => go({ turn: String(turn) }, { replace: true })) : null, " ", button("Close the other", () => go({ with: "" })));
}

function toolbar(episodes, most) {
  const shades = Object.entries(SHADES).map(([name, { title }]) =>
    el("label", {}, el("input", { type: "radio", name: "shade", value: name, checked: state.shade === name, onchange: () => go({ shade: name }, { replace: true }) }), title),
  );
  const prompts = button("Prompts", () => go({ prompts: state.prompts ? "" : "1" }, { replace: true }), { "aria-pressed": String(Boolean(state.prompts)), "aria-keyshortcuts": "o" });
  return el("div", { class: "toolbar" }, el("fieldset", { class: "shades" }, el("legend", {}, "Shade tokens by"), ...shades), prompts, legend(episodes, most));
}

function legend(episodes, most) {
  const roles = ["prompt", "boundary", "action", "target", "observation"];
  const used = episodes.flatMap((episode) => episode.turns);
  if (used.some((turn) => turn.control_ids != null)) roles.push("control");
  if (used.some((turn) => turn.counterfactual_ids?.length)) roles.push("other");
  const about = SHADES[state.shade]?.about;
  const scale = el("span", { class: "scale", "aria-hidden": "true" }, ...[0.2, 0.6, 1].map((strength) => {
    const step = el("span", { class: "t shaded" }, " ");
    step.style.setProperty("--strength", String(strength));
    return step;
  }));
  const meaning = !about ? null : most ? [scale, `${about}, up to ${number(most)}`] : `This file holds no ${about}.`;
  return el("p", { class: "legend-line" }, ...roles.map((role) => el("span", { class: `t ${role}` }, ROLES[role])), meaning && el("span", { class: "meaning" }, meaning));
}

function groupList(row, group) {
  if (group.length < 2) return null;
  return el("section", {}, el("h3", {}, `Its group, ${group.length} episodes`), el("ul", { class: "others" }, ...group.map((other) => otherItem(row, other, `member ${other.member}`))));
}

function taskList(row) {
  const others = sameTask(row).slice(0, 60);
  if (!others.length) return null;
  const text = (other) => `${store.runs.length > 1 ? `${"AB"[other.run]} · ` : ""}iteration ${other.iteration}`;
  others.sort((a, b) => Number(a.run === row.run) - Number(b.run === row.run) || Math.abs(a.iteration - row.iteration) - Math.abs(b.iteration - row.iteration));
  return el("section", {}, el("h3", {}, "The same task elsewhere"), el("ul", { class: "others" }, ...others.map((other) => otherItem(row, other, text(other)))));
}

function otherItem(row, other, text) {
  const worth = other.return === Number(other.won) ? "" : `, return ${number(other.return)}`;
  const said = `${text}, ${plural(other.turns, "turn")}${worth}`;
  const opened = button(said, () => go({ e: other.key, with: "", turn: "" }), { class: "plain", title: nameOf(other) });
  const here = other === row;
  return el("li", { "aria-current": here ? "true" : null }, outcome(other), el("span", { class: "grow" }, here ? said : opened), here ? null : besideButton(other));
}

function besideButton(other) {
  const on = state.with === other.key;
  return button("beside", () => go({ with: on ? "" : other.key, turn: "" }), { "aria-pressed": String(on), "aria-label": `beside: ${nameOf(other)}` });
}
