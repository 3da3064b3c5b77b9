// The observation tokens that still have a loss, summed over the training files that the filters leave.
import { el, find, number, oneLine, percent, visible } from "./elements.js";
import { store, textsOf } from "./data.js";
import { go, state } from "./state.js";

const LONGEST = 20;

function partsShown() {
  const parts = [...store.parts.values()].filter((part) => part.taught?.length);
  const kept = parts.filter(
    (part) =>
      (!state.run || "AB"[part.run] === state.run) && (!state.iteration || String(part.iteration) === state.iteration),
  );
  if (state.iteration || !kept.length) return kept;
  const last = Math.max(...kept.map((part) => part.iteration ?? 0));
  return kept.filter((part) => part.iteration === last);
}

export async function drawTaught() {
  const all = [...store.parts.values()].some((part) => part.taught?.length);
  find("#taught-section").hidden = !all;
  if (!all || !find("#taught").open) return;
  const tables = await Promise.all(partsShown().map(tableOf));
  const none = el(
    "p",
    { class: "quiet" },
    "The files that the filters leave hold no w(p): it is written for training.",
  );
  find("#taught > div").replaceChildren(...(tables.length ? tables : [none]));
}

async function tableOf(part) {
  const texts = await textsOf(part);
  const run = store.runs.length > 1 ? ` of run ${"AB"[part.run]}` : "";
  const rows = part.taught
    .filter(([, , teaching]) => teaching > 0)
    .slice(0, LONGEST)
    .map(([id, targets, teaching, weight, logprob]) =>
      el(
        "tr",
        {},
        el(
          "td",
          {},
          el(
            "code",
            {},
            visible(texts[id] ?? `#${id}`)
              .replace(/ /g, "␣")
              .replace(/\n/g, "⏎"),
          ),
        ),
        ...[targets, teaching, percent(teaching / targets), number(weight), number(Math.exp(logprob / targets))].map(
          (value) => el("td", { class: "right" }, value),
        ),
      ),
    );
  const heads = ["Token", "Targets", "With a loss", "Share", "Sum of w(p)", "Typical p"];
  const show = el(
    "button",
    {
      type: "button",
      onclick: () => go({ split: part.label, iteration: String(part.iteration), run: "AB"[part.run], sort: "-won" }),
    },
    "Show its episodes",
  );
  return el(
    "div",
    { class: "scrolls" },
    el(
      "p",
      {},
      `Iteration ${part.iteration}${run}, ${oneLine(part.world_model_loss ?? "world-model loss", 60)}. w(p) is how much the loss still pulls at a token; the largest sums first. Typical p is the geometric mean. `,
      show,
    ),
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el("tr", {}, ...heads.map((head, i) => el("th", { scope: "col", class: i ? "right" : null }, head))),
      ),
      el("tbody", {}, ...rows),
    ),
  );
}
