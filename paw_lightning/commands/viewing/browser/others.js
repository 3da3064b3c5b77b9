// The episodes beside one: its group, and the same task in other iterations and in the other run.
import { button, el, number, plural } from "./elements.js";
import { store } from "./data.js";
import { go, state } from "./state.js";
import { sameTask } from "./match.js";
import { outcome } from "./table.js";
import { nameOf } from "./transcript.js";

export function groupList(row, group) {
  if (group.length < 2) return null;
  return el(
    "section",
    {},
    el("h3", {}, `Its group, ${group.length} episodes`),
    el("ul", { class: "others" }, ...group.map((other) => otherItem(row, other, `member ${other.member}`))),
  );
}

export function taskList(row) {
  const others = sameTask(row).slice(0, 60);
  if (!others.length) return null;
  const text = (other) => `${store.runs.length > 1 ? `${"AB"[other.run]} · ` : ""}iteration ${other.iteration}`;
  others.sort(
    (a, b) =>
      Number(a.run === row.run) - Number(b.run === row.run) ||
      Math.abs(a.iteration - row.iteration) - Math.abs(b.iteration - row.iteration),
  );
  return el(
    "section",
    {},
    el("h3", {}, "The same task elsewhere"),
    el("ul", { class: "others" }, ...others.map((other) => otherItem(row, other, text(other)))),
  );
}

function otherItem(row, other, text) {
  const worth = other.return === Number(other.won) ? "" : `, return ${number(other.return)}`;
  const said = `${text}, ${plural(other.turns, "turn")}${worth}`;
  const opened = button(said, () => go({ e: other.key, with: "", turn: "" }), { class: "plain", title: nameOf(other) });
  const here = other === row;
  return el(
    "li",
    { "aria-current": here ? "true" : null },
    outcome(other),
    el("span", { class: "grow" }, here ? said : opened),
    here ? null : besideButton(other),
  );
}

export function besideButton(other) {
  const on = state.with === other.key;
  return button("beside", () => go({ with: on ? "" : other.key, turn: "" }), {
    "aria-pressed": String(on),
    "aria-label": `beside: ${nameOf(other)}`,
  });
}
