// One or two episodes turn by turn: for each turn the prompt on demand, the action, the answer.
import { button, el, number, plural, signed } from "./elements.js";
import { go, state } from "./state.js";
import { ROLES, segments, strongest } from "./tokens.js";
import { drawPrompt, longText, tokenRun } from "./lines.js";

// The turns of each episode, side by side where there are two.
export function drawTranscript(episodes) {
  const all = episodes.map((episode) => episode.turns.map((turn) => segments(turn, episode)));
  const most = strongest(
    all.flat(2).flatMap((segment) => (segment.role === "prompt" ? [] : (segment.tokens ?? []))),
    state.shade,
  );
  const view = el("div", { class: `transcript${episodes.length > 1 ? " two" : ""}` });
  const count = Math.max(...episodes.map((episode) => episode.turns.length));
  view.append(...episodes.map((episode, side) => drawStart(episode, side, episodes.length)));
  for (let i = 0; i < count; i++) {
    view.append(
      ...episodes.map((episode, side) =>
        episode.turns[i]
          ? drawTurn(episodes, i, side, all[side][i], most)
          : el("div", { class: `turn absent side${side}` }),
      ),
    );
  }
  const first = view.querySelector(".t");
  if (first) first.tabIndex = 0;
  return { view, most };
}

function drawStart(episode, side, sides) {
  const anchor = episode.turns[0]?.anchor;
  const title = sides > 1 ? el("h3", {}, nameOf(episode.row)) : null;
  const text = anchor && el("div", { class: "line" }, label("start"), longText(anchor, "observation"));
  return el("div", { class: `turn start side${side}` }, title, text);
}

export function nameOf(row) {
  return `${"AB"[row.run]} · ${row.split} ${row.iteration} · member ${row.member} · ${row.won ? "✓ won" : "✗ lost"}`;
}

const label = (text, about) => el("span", { class: "label", title: about }, text);

function drawTurn(episodes, i, side, parts, most) {
  const episode = episodes[side];
  const sides = episodes.length;
  const differs =
    sides > 1 && episodes[1 - side].turns[i] && episodes[0].turns[i].action_text !== episodes[1].turns[i].action_text;
  const turn = episode.turns[i];
  const at = `${i + 1}`;
  const chosen = state.turn === at;
  const link = button(`Turn ${at}`, () => go({ turn: chosen ? "" : at }, { replace: true }), {
    class: "plain",
    "aria-pressed": String(chosen),
    title: "put this turn into the address",
  });
  const prompt = parts.find((part) => part.role === "prompt");
  const rest = parts.filter((part) => part.role !== "prompt");
  const side_name = sides > 1 ? el("span", { class: "fact whose" }, nameOf(episode.row)) : null;
  const head = el(
    "h3",
    {},
    link,
    side_name,
    differs && el("span", { class: "fact differs" }, "≠ other action"),
    ...facts(turn).map((fact) => el("span", { class: fact.bad ? "flag" : "fact" }, fact.text)),
  );
  const lines = joined(rest).map((line) => drawLine(line, turn, episode, most));
  return el(
    "section",
    { class: `turn side${side}${chosen ? " chosen" : ""}`, "data-turn": at, "aria-label": `Turn ${at}` },
    head,
    prompt && drawPrompt(prompt, turn),
    ...lines,
    drawSent(turn, parts),
  );
}

// What stands beside the turn's number.
function facts(turn) {
  const weights = turn.loss_weights ?? [];
  const teaching = weights.filter((weight) => weight > 0).length;
  const found = [
    turn.reward && { text: `reward ${number(turn.reward)}` },
    turn.advantage && { text: `A ${signed(turn.advantage)}` },
    entropy(turn) && { text: `H ${number(entropy(turn))}` },
    weights.length && { text: `${teaching} of ${weights.length} still teach` },
    turn.admissible === false && { text: "not admissible", bad: true },
    turn.well_formed === false && { text: "malformed", bad: true },
    turn.truncated && { text: "cut off", bad: true },
    turn.dropped_turns > 0 && { text: `${plural(turn.dropped_turns, "past turn")} left out of the prompt`, bad: true },
  ];
  return found.filter(Boolean);
}

// What the selection sorts by; an evaluation selects nothing, and its tokens' mean says the same.
function entropy(turn) {
  const each = turn.sampled_entropies ?? [];
  return turn.action_entropy || (each.length && each.reduce((sum, value) => sum + value, 0) / each.length);
}

// Boundaries stand on the line of what comes after an action, or before it.
function joined(parts) {
  const lines = [];
  for (const part of parts) {
    const before = lines.at(-1);
    const open = before && before.every((other) => other.role === "boundary");
    if (open || (part.role === "boundary" && before?.at(-1).role === "action")) before.push(part);
    else lines.push([part]);
  }
  return lines;
}

function drawLine(parts, turn, episode, most) {
  const main = parts.find((part) => part.role !== "boundary") ?? parts[0];
  const [name, why] = labelOf(main, turn, episode);
  const content = parts.map((part) =>
    part.tokens?.length ? tokenRun(part.tokens, most) : longText(part.text, part.role),
  );
  return el(
    "div",
    { class: "line" },
    label(name, ROLES[main.role]),
    el("div", { class: "content" }, ...content, why && el("small", { class: "quiet" }, why)),
  );
}

const SHORT = {
  action: "action",
  target: "predicted",
  observation: "answer",
  boundary: "boundary",
  control: "control",
  other: "other action",
};

function labelOf(part, turn, episode) {
  if (part.role !== "observation" || part.tokens?.length === 0) return [SHORT[part.role], ""];
  if (turn.control_ids != null) return ["answer", "replaced as a target by the control below"];
  if (turn.predictable === false) return ["answer", "not predicted: the environment does not allow it as a target"];
  if (episode.row.part.split !== "train") return ["answer", ""];
  return [
    "answer",
    part.tokens && !episode.turns.some((other) => other.selected) ? "" : part.tokens ? "not selected" : "not predicted",
  ];
}

// What was sent to the environment, where that is not just what the policy wrote.
function drawSent(turn, parts) {
  const written =
    parts
      .find((part) => part.role === "action")
      ?.tokens?.filter((item) => !item.control)
      .map((item) => item.text)
      .join("") ?? "";
  const sent = turn.action_text ?? "";
  if (written.trim().startsWith(sent.trim()) && sent.trim().length > 0 && turn.well_formed !== false) return null;
  return el("div", { class: "line" }, label("sent"), longText(sent || "(nothing)", "text"));
}
