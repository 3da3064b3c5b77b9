// A turn's tokens with what each one is for and what is known of it, and how they are drawn and shaded.
import { el, number, percent, signed, visible } from "./elements.js";

export const ROLES = {
  prompt: "prompt",
  boundary: "turn boundary",
  action: "action",
  target: "observation, predicted",
  observation: "observation, not predicted",
  control: "control, predicted in its place",
  filtered: "ruled out by the filter, no target",
  other: "answer to another action",
};

export const SHADES = {
  roles: { title: "Roles only" },
  teaches: { title: "What still teaches", about: "w(p) of predicted tokens", value: (token) => token.weight },
  entropy: { title: "Entropy", about: "entropy of action tokens, nats", value: (token) => token.entropy },
  advantage: {
    title: "Advantage",
    about: "advantage of action tokens; below 0 striped",
    value: (token) => token.advantage,
  },
  surprise: {
    title: "1 − p",
    about: "how unexpected each token was",
    value: (token) => (token.logprob == null ? null : 1 - Math.exp(token.logprob)),
  },
};

// One whole token that reads so is a control token: ordinary text that looks like one is several tokens.
const CONTROL = /^(<[|｜].*[|｜]>|<\/?s>|<[a-z_]*(of_turn|bos|eos|pad)[a-z_]*>|\[\/?INST\])$/;

// [{role, tokens}] of a turn in the order in which the model reads them; `text` where only the text is known.
export function segments(turn, episode) {
  const plain = (role, ids) => ({ role, tokens: (ids ?? []).map((id, at) => token(role, id, at, episode)) });
  const found = [
    plain("prompt", turn.prompt_ids),
    plain("boundary", turn.turn_ids),
    actions(turn, episode),
    plain("boundary", turn.bridge_ids),
  ];
  found.push(...observations(turn, episode));
  if (turn.counterfactual_ids?.length) found.push(plain("other", turn.counterfactual_ids));
  return found.filter((segment) => segment.tokens?.length || segment.text);
}

function token(role, id, at, episode, values = {}) {
  const text = episode.texts[id] ?? `⟨token ${id}⟩`;
  return { role, id, at, control: CONTROL.test(text), text, ...values };
}

function actions(turn, episode) {
  const tokens = (turn.action_ids ?? []).map((id, at) =>
    token("action", id, at, episode, {
      logprob: turn.sampled_logprobs?.[at] ?? turn.old_logprobs?.[at],
      entropy: turn.sampled_entropies?.[at] ?? turn.token_entropies?.[at],
      advantage: turn.token_advantages?.[at] ?? turn.advantage,
      old: turn.old_logprobs?.[at],
      reference: turn.reference_logprobs?.[at],
      importance: turn.importance?.[at],
      critic: turn.old_values?.[at],
    }),
  );
  return { role: "action", tokens };
}

function observations(turn, episode) {
  const ids = turn.observation_ids ?? [];
  // A token that a filter has ruled out is no target, and nothing was read of it.
  const taught = (role, list, mask) => {
    let next = 0;
    const tokens = list.map((id, at) => {
      if (mask && !mask[at]) return token(role === "observation" ? role : "filtered", id, at, episode, {});
      const place = next++;
      return token(role, id, at, episode, {
        logprob: turn.target_logprobs?.[place],
        weight: turn.loss_weights?.[place],
        share: turn.target_weight,
        coefficient: episode.coefficient,
        step: turn.target_step,
      });
    });
    return { role, tokens };
  };
  const replaced = turn.control_ids != null;
  const known = ids.length
    ? taught(turn.selected && !replaced ? "target" : "observation", ids, replaced ? null : turn.target_mask)
    : { role: "observation", text: turn.observation_text };
  if (ids.length) {
    spell(known.tokens, turn.observation_text);
    markNuisance(known.tokens, turn);
  }
  if (!replaced) return [known];
  for (const item of known.tokens ?? []) item.logprob = item.weight = item.share = undefined;
  return [known, taught(turn.selected ? "control" : "observation", turn.control_ids, turn.control_mask)];
}

// A character may be split over several tokens, none of which has a text of its own: its first token shows it.
function spell(tokens, whole = "") {
  const split = (item) => item.text.includes("\uFFFD");
  let start = 0;
  for (let i = 0; i < tokens.length; ) {
    let after = i + 1;
    if (split(tokens[i])) {
      while (after < tokens.length && split(tokens[after])) after++;
      const end = after < tokens.length ? whole.indexOf(tokens[after].text, start + 1) : whole.length;
      if (end <= start) return;
      for (let k = i; k < after; k++) tokens[k].text = k === i ? whole.slice(start, end) : "";
      start = end;
    } else if (whole.startsWith(tokens[i].text, start)) {
      start += tokens[i].text.length;
    } else return; // what follows is not of this text, such as the token that ends an action
    i = after;
  }
}

// The environment labels characters that nobody can predict; they are found where the tokens spell the text.
function markNuisance(tokens, turn) {
  const spans = turn.nuisance_spans ?? [];
  if (!spans.length || tokens.map((item) => item.text).join("") !== turn.observation_text) return;
  let start = 0;
  for (const item of tokens) {
    const end = start + item.text.length;
    item.nuisance = spans.some(([from, to]) => from < end && to > start);
    start = end;
  }
}

const drawn = new WeakMap();
export const tokenOf = (node) => drawn.get(node);

// The largest value of a shading in an episode, to which the others are compared.
export function strongest(list, shade) {
  const value = SHADES[shade]?.value;
  if (!value) return 0;
  return list.reduce((most, item) => Math.max(most, Math.abs(value(item) ?? 0)), 0);
}

// A span for a token. A new line is shown by its sign, and breaks the line but for the scaffold between turns.
export function drawToken(item, shade, most) {
  const node = el(
    "span",
    { class: `t ${item.role}${item.control ? " special" : ""}${item.nuisance ? " nuisance" : ""}` },
    ...lettersOf(item),
  );
  const value = SHADES[shade]?.value?.(item);
  if (value != null) {
    if (value !== 0) node.classList.add("shaded");
    if (value < 0) node.classList.add("below");
    if (shade === "teaches" && value > 0) node.classList.add("teaches");
    node.style.setProperty("--strength", String(most ? Math.abs(value) / most : 0));
  }
  drawn.set(node, item);
  return node;
}

function lettersOf({ text, role }) {
  const broken = role === "boundary" ? "" : "\n";
  return visible(text)
    .split("\n")
    .map((line, i) => (i ? [el("span", { class: "newline", "aria-hidden": "true" }, "⏎"), broken, line] : line));
}

// [name, value] pairs for the inspector.
export function factsOf(item) {
  const p = item.logprob == null ? null : Math.exp(item.logprob);
  const facts = [
    ["role", ROLES[item.role] + (item.control ? ", control token" : "")],
    ["id, place", `${item.id}, ${item.at + 1}`],
    ["p", p == null ? null : p >= 0.001 ? percent(p) : number(p)],
    ["log-prob", item.logprob],
    ["entropy H", item.entropy],
    ["advantage", item.advantage == null ? null : signed(item.advantage)],
    ["old log-prob", item.old],
    ["reference log-prob", item.reference],
    ["importance", item.importance],
    ["critic's value", item.critic],
    [
      "w(p)",
      item.weight == null
        ? null
        : number(item.weight) + (item.weight > 0 ? ", still teaches" : ", nothing left to learn"),
    ],
    ["λ of its group", item.share == null && item.weight == null ? null : item.coefficient],
    ["weight in the loss", item.share],
    ["optimizer step", item.step],
    ["nuisance", item.nuisance ? "the environment says that nobody can predict it" : null],
  ];
  return facts
    .filter(([, value]) => value != null)
    .map(([name, value]) => [name, typeof value === "number" ? number(value) : value]);
}
