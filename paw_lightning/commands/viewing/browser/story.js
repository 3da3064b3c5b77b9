// An episode in sentences: how it ended, what went wrong on the way, who of its group did better.
import { number, oneLine, plural, signed } from "./elements.js";

// [{text, turns?, beside?}]: sentences, the turns they speak of, a row to read beside this one.
export function story(episode, group) {
  const { row, turns } = episode;
  const found = [ending(episode, group)];
  const listed = (test, one, many) => {
    const which = turns.flatMap((turn, i) => (test(turn, i) ? [i + 1] : []));
    if (which.length) found.push({ text: which.length === 1 ? one : `${which.length} ${many}`, turns: which });
  };
  listed((turn) => turn.admissible === false, "One action was not admissible", "actions were not admissible");
  listed((turn) => turn.well_formed === false, "One action was malformed", "actions were malformed");
  listed(
    (turn) => turn.truncated,
    "One action was cut off at the length limit",
    "actions were cut off at the length limit",
  );
  listed(
    (turn, i) => repeats(turns, i),
    "One turn repeats an earlier one: same action, same answer",
    "turns repeat an earlier one: same action, same answer",
  );
  listed(
    (turn) => turn.dropped_turns > 0,
    "One prompt had no room for all past turns",
    "prompts had no room for all past turns",
  );
  listed((turn) => turn.reward, "One turn was rewarded", "turns were rewarded");
  if (episode.overflowed) found.push({ text: "The next prompt would have been too long, so the episode was cut off" });
  for (const error of episode.errors ?? [])
    found.push({ text: `Started again, as its environment had failed: ${oneLine(error, 500)}` });
  if (row.left_out) {
    const teaches = turns.some((turn) => turn.selected);
    const what = teaches ? "it trains the world model alone" : "not trained on";
    found.push({ text: `Played, but ${what}: all returns of its group are equal` });
  }
  taught(turns, found);
  const better = betterMember(row, group);
  if (better) found.push(better);
  return found;
}

// Who of its group to read beside an episode that is lost: a winner, else one with a larger return; of several the quickest.
function betterMember(row, group) {
  const value = (other) => [Number(other.won), other.return, -other.turns];
  const above = (a, b) => value(a).reduce((found, x, i) => found || x - value(b)[i], 0);
  const best = group.toSorted((a, b) => above(b, a))[0];
  if (row.won || !(best.won || best.return > row.return)) return null;
  const did = best.won ? "won" : `reached return ${number(best.return)}`;
  return { text: `Member ${best.member} of the same group ${did} in ${plural(best.turns, "turn")}`, beside: best };
}

function ending(episode, group) {
  const { row } = episode;
  const ended = row.ended && !["won", "lost"].includes(row.ended) ? `, ended by: ${oneLine(row.ended, 80)}` : "";
  const most = episode.max_return == null ? "" : ` of ${number(episode.max_return)}`;
  const won = group.filter((other) => other.won).length;
  const others = group.length > 1 ? ` ${won} of the ${group.length} episodes of its group won.` : "";
  const advantage = row.advantage == null ? "" : ` Advantage ${signed(row.advantage)}.`;
  return {
    text: `${row.won ? "Won" : "Lost"} after ${plural(row.turns, "turn")}, return ${number(row.return)}${most}${ended}.${others}${advantage}`,
  };
}

function repeats(turns, i) {
  const same = (other) =>
    other.action_text === turns[i].action_text && other.observation_text === turns[i].observation_text;
  return turns.slice(0, i).some(same);
}

function taught(turns, found) {
  const weights = turns.flatMap((turn) => turn.loss_weights ?? []);
  if (!weights.length) return;
  const teaching = weights.filter((weight) => weight > 0).length;
  const where = turns.flatMap((turn, i) => ((turn.loss_weights ?? []).some((weight) => weight > 0) ? [i + 1] : []));
  found.push({ text: `${teaching} of ${plural(weights.length, "predicted token")} still teach`, turns: where });
}

// How far two episodes of a task go together.
export function divergence(one, other) {
  const both = Math.min(one.turns.length, other.turns.length);
  let same = 0;
  while (same < both && one.turns[same].action_text === other.turns[same].action_text) same++;
  if (same === one.turns.length && same === other.turns.length)
    return { text: "The same actions throughout.", turn: 0 };
  if (same === 0) return { text: "They act differently from the first turn on.", turn: 1 };
  return {
    text: `The same ${same === 1 ? "action" : `${same} actions`}, then they differ from turn ${same + 1} on.`,
    turn: same + 1,
  };
}
