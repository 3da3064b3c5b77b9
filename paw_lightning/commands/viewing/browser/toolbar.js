// What stands above a transcript: how its tokens are shaded, and what their looks mean.
import { button, el, number } from "./elements.js";
import { go, state } from "./state.js";
import { ROLES, SHADES } from "./tokens.js";

export function toolbar(episodes, most) {
  const shades = Object.entries(SHADES).map(([name, { title }]) =>
    el(
      "label",
      {},
      el("input", {
        type: "radio",
        name: "shade",
        value: name,
        checked: state.shade === name,
        onchange: () => go({ shade: name }, { replace: true }),
      }),
      title,
    ),
  );
  const prompts = button("Prompts", () => go({ prompts: state.prompts ? "" : "1" }, { replace: true }), {
    "aria-pressed": String(Boolean(state.prompts)),
    "aria-keyshortcuts": "o",
  });
  return el(
    "div",
    { class: "toolbar" },
    el("fieldset", { class: "shades" }, el("legend", {}, "Shade tokens by"), ...shades),
    prompts,
    legend(episodes, most),
  );
}

function legend(episodes, most) {
  const roles = ["prompt", "boundary", "action", "target", "observation"];
  const used = episodes.flatMap((episode) => episode.turns);
  if (used.some((turn) => turn.control_ids != null)) roles.push("control");
  if (used.some((turn) => turn.target_mask != null)) roles.push("filtered");
  if (used.some((turn) => turn.counterfactual_ids?.length)) roles.push("other");
  const about = SHADES[state.shade]?.about;
  const scale = el(
    "span",
    { class: "scale", "aria-hidden": "true" },
    ...(state.shade === "advantage" ? [-1, -0.5, 0.5, 1] : [0.2, 0.6, 1]).map((strength) => {
      const step = el("span", { class: strength < 0 ? "t shaded below" : "t shaded" }, " ");
      step.style.setProperty("--strength", String(Math.abs(strength)));
      return step;
    }),
  );
  const meaning = !about ? null : most ? [scale, `${about}, up to ${number(most)}`] : `This file holds no ${about}.`;
  return el(
    "p",
    { class: "legend-line" },
    ...roles.map((role) => el("span", { class: `t ${role}` }, ROLES[role])),
    meaning && el("span", { class: "meaning" }, meaning),
  );
}
