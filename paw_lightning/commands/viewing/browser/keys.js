// The keyboard.
import { button, el, find } from "./elements.js";
import { go, state } from "./state.js";
import { stepRow } from "./table.js";
import { back, stepEpisode } from "./episode.js";
import { hideInspector } from "./inspector.js";
import { SHADES } from "./tokens.js";

const KEYS = [
  ["j, k, or arrows", "next and previous episode"],
  ["Enter", "open the episode"],
  ["Escape", "close what is open: a token, the episode beside, the episode"],
  ["/", "search"],
  ["n, p", "next and previous turn"],
  ["s", "shade tokens by something else"],
  ["o", "open or close all prompts"],
  ["arrows on a token", "the token beside it; up and down: the line before and after"],
  ["?", "these keys"],
];

export function buildHelp() {
  const rows = KEYS.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]);
  find("#help").append(
    el("h2", { id: "help-title" }, "Keys"),
    el("dl", {}, ...rows),
    button("Close", () => find("#help").close()),
  );
  find("#help-button").addEventListener("click", () => find("#help").showModal());
  addEventListener("keydown", press);
}

function press(event) {
  const typing = event.target.matches?.("input:not([type=radio], [type=checkbox]), select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || find("#help").open) return;
  if (typing) return event.key === "Escape" ? event.target.blur() : undefined;
  const act = (state.e ? EPISODE : LIST)[event.key] ?? BOTH[event.key];
  if (!act || (event.key.startsWith("Arrow") && event.target.matches?.("input"))) return;
  event.preventDefault();
  act();
}

const LIST = {
  j: () => stepRow(1),
  k: () => stepRow(-1),
  ArrowDown: () => stepRow(1),
  ArrowUp: () => stepRow(-1),
};
const EPISODE = {
  j: () => stepEpisode(1),
  k: () => stepEpisode(-1),
  ArrowRight: () => stepEpisode(1),
  ArrowLeft: () => stepEpisode(-1),
  n: () => stepTurn(1),
  p: () => stepTurn(-1),
  s: nextShade,
  o: () => go({ prompts: state.prompts ? "" : "1" }, { replace: true }),
};
const BOTH = { "/": search, "?": () => find("#help").showModal(), Escape: close };

function search() {
  if (state.e) back();
  find("#f-q").focus();
  find("#f-q").select();
}

function close() {
  if (hideInspector()) return document.activeElement?.matches(".t") ? document.activeElement.blur() : undefined;
  if (state.with) go({ with: "" });
  else if (state.e) back();
}

function stepTurn(by) {
  const turns = document.querySelectorAll("#episode .turn.side0[data-turn]").length;
  const next = Math.max(1, Math.min(turns, Number(state.turn || 0) + by));
  if (turns) go({ turn: String(next) }, { replace: true });
}

function nextShade() {
  const names = Object.keys(SHADES);
  go({ shade: names[(names.indexOf(state.shade) + 1) % names.length] }, { replace: true });
}
