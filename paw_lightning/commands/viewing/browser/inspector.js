// What is known of the token under the pointer, the finger or the keyboard's focus.
import { el, find, visible } from "./elements.js";
import { factsOf, tokenOf } from "./tokens.js";

let pinned = null;

function show(node) {
  const box = find("#inspector");
  const item = tokenOf(node);
  const rows = factsOf(item).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  const spelled = visible(item.text.slice(0, 200)).replace(/\n/g, "⏎").replace(/ /g, "␣");
  box.replaceChildren(el("p", {}, el("code", {}, spelled)), el("dl", {}, ...rows));
  box.hidden = false;
  place(box, node);
}

// Beside the token on a wide screen; CSS holds it at the bottom of a narrow one.
function place(box, node) {
  const token = node.getBoundingClientRect();
  const below = token.bottom + box.offsetHeight + 12 < innerHeight;
  box.style.left = `${Math.max(8, Math.min(token.left, innerWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${below ? token.bottom + 6 : Math.max(8, token.top - box.offsetHeight - 6)}px`;
}

export function hideInspector() {
  const was = !find("#inspector").hidden;
  find("#inspector").hidden = true;
  pinned?.classList.remove("pinned");
  pinned = null;
  return was;
}

export function watchTokens(view) {
  const tokenAt = (event) => event.target.closest?.(".t");
  view.addEventListener("pointerover", (event) => {
    if (pinned || event.pointerType === "touch") return;
    tokenAt(event) ? show(tokenAt(event)) : hideInspector();
  });
  view.addEventListener("pointerleave", () => pinned || hideInspector());
  view.addEventListener("click", (event) => {
    const node = tokenAt(event);
    const again = node && node === pinned;
    hideInspector();
    if (node && !again) pin(node);
  });
  view.addEventListener("focusin", (event) => tokenAt(event) && pin(tokenAt(event)));
  view.addEventListener("keydown", step);
  addEventListener("scroll", () => pinned && place(find("#inspector"), pinned), { passive: true });
}

function pin(node) {
  hideInspector();
  pinned = node;
  node.classList.add("pinned");
  show(node);
}

// Arrow keys walk over the tokens; exactly one token of a transcript can be reached with Tab.
function step(event) {
  const node = event.target.closest?.(".t");
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: "before", ArrowDown: "after" }[event.key];
  if (!node || !by) return;
  event.preventDefault();
  event.stopPropagation();
  const tokens = [...node.closest(".transcript").querySelectorAll(".t")];
  const at = tokens.indexOf(node);
  const firsts = tokens.filter((other) => other === other.closest(".line").querySelector(".t"));
  const next =
    by === "after"
      ? firsts.find((other) => tokens.indexOf(other) > at)
      : by === "before"
        ? firsts.findLast((other) => tokens.indexOf(other) < at)
        : tokens[at + by];
  if (!next) return;
  node.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
