// Elements and texts. Whatever an environment or a policy wrote becomes a text node, never markup.

export const find = (selector, inside = document) => inside.querySelector(selector);

// el("button", {type: "button", onclick: act}, "text", otherElement): attributes that are null or false are left out.
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

export function button(text, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, text);
}

// Draws the inside of a node anew; whoever works with the keyboard stays on the control that did it.
export function redrawn(view, ...children) {
  const named = (node) => {
    const own = node.dataset.sort ?? node.dataset.outcome ?? node.dataset.tag;
    return own ?? `${node.localName} ${node.value} ${node.ariaLabel ?? node.textContent}`;
  };
  const focused = view.contains(document.activeElement) ? document.activeElement : null;
  const wanted = focused && named(focused);
  const alike = () => [...view.querySelectorAll("button, input")].filter((node) => named(node) === wanted);
  const place = focused ? alike().indexOf(focused) : -1;
  view.replaceChildren(...children);
  if (place >= 0) alike()[place]?.focus({ preventScroll: true });
}

// Characters that move, hide or turn the text around them are shown by their number instead.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]|\p{Cs}/gu;

export function visible(text) {
  return String(text ?? "").replace(
    HIDDEN,
    (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
  );
}

// On one line, and never longer than a title can be.
export function oneLine(text, longest = 300) {
  const line = visible(String(text ?? "").slice(0, longest + 1)).replace(/\s+/g, " ");
  return line.length > longest ? line.slice(0, longest) + "…" : line;
}

// Three significant digits without a trail of zeros; a true minus sign.
export function number(value, digits = 3) {
  if (value == null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e6)
    return value
      .toExponential(digits - 1)
      .replace("-", "−")
      .replace("e-", "e−");
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

export const signed = (value) => (value > 0 ? "+" : "") + number(value);
export const percent = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)} %`);
export const plural = (count, one, many = one + "s") => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
