// Runs of tokens and plain texts; of very long ones only the beginning, until the rest is asked for.
import { button, el, plural, visible } from "./elements.js";
import { state } from "./state.js";
import { drawToken } from "./tokens.js";

const MOST_TOKENS = 3000;
const MOST_CHARACTERS = 20000;

export function tokenRun(tokens, most) {
  const shown = tokens.slice(0, MOST_TOKENS);
  const run = el("span", { class: "run" }, ...shown.map((item) => drawToken(item, state.shade, most)));
  if (tokens.length > shown.length) {
    const more = button(`show the other ${plural(tokens.length - shown.length, "token")}`, () =>
      more.replaceWith(...tokens.slice(MOST_TOKENS).map((item) => drawToken(item, state.shade, most))),
    );
    run.append(more);
  }
  return run;
}

export function longText(text, role) {
  const whole = String(text ?? "");
  const node = el("span", { class: `text ${role}` }, visible(whole.slice(0, MOST_CHARACTERS)));
  if (whole.length > MOST_CHARACTERS) {
    const more = button(`show the other ${plural(whole.length - MOST_CHARACTERS, "character")}`, () =>
      more.replaceWith(visible(whole.slice(MOST_CHARACTERS))),
    );
    node.append(more);
  }
  return node;
}

// The prompt exactly as the model read it, control tokens included; built when it is opened.
export function drawPrompt(prompt, turn) {
  const count = prompt.tokens.length;
  const content = el("div", { class: "content prompt-ids", hidden: true });
  const toggle = button(`prompt, ${plural(count, "token")}`, () => open(content.hidden), {
    class: "plain",
    "aria-expanded": "false",
  });
  const open = (wanted) => {
    content.hidden = !wanted;
    toggle.setAttribute("aria-expanded", String(wanted));
    if (wanted && !content.childElementCount) content.append(...promptRuns(prompt.tokens, turn.shared));
  };
  if (state.prompts) open(true);
  return el("div", { class: "line" }, el("span", { class: "label" }, toggle), content);
}

function promptRuns(tokens, shared) {
  const old = tokens.slice(0, shared);
  const fresh = tokens.slice(shared);
  if (!old.length) return [tokenRun(fresh, 0)];
  const note = el(
    "small",
    { class: "quiet" },
    `The first ${plural(shared, "token")} as in the turn before; new from here:`,
  );
  return [tokenRun(old, 0), note, tokenRun(fresh, 0)];
}
