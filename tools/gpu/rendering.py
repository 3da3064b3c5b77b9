"""Makes docs/gpu.md and the GPU column of docs/support.md from docs/gpu.json, which it adds the given results to.

    python tools/gpu/rendering.py [RESULTS ...] [--print]

Results of several calls are merged, later ones in place of earlier ones. What has no result is "not yet run on
hardware". A rehearsal's results are never merged into docs/.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import record
from study_summary import summary

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = ROOT / "docs"
NOT_YET = "not yet run on hardware"
Entries = dict[str, dict[str, Any]]

CORE = {
    "core/kernel, float32": "log-prob kernel at 151,936 words, values and gradients against float64, float32",
    "core/kernel, bfloat16": "the same, bfloat16",
    "core/native sampler = trainer, float32": "native sampler = trainer, two turns in a session, float32",
    "core/native sampler = trainer, bfloat16": "the same, bfloat16",
    "core/paged sampler = trainer, float32": "paged sampler = trainer, float32",
    "core/paged sampler = trainer, bfloat16": "the same, bfloat16",
    "core/branches, sdpa": "branches of a row = the same alone, SDPA",
    "core/branches, eager": "the same, eager attention",
    "core/run, float32": "an iteration with canaries: float32",
    "core/run, bf16-mixed": "`trainer.precision: bf16-mixed`",
    "core/run, bf16-true": "`trainer.precision: bf16-true`",
    "core/run, LoRA": "LoRA",
    "core/run, branches": "targets in branches (`wm/placebo`)",
    "core/run, paged sampler": "`rollout.sampler: paged`",
    "core/run, eager attention": "`model.attention: eager`",
    "core/run, DDP of one rank": "DDP, one rank",
    "core/run, FSDP2 of one rank": "FSDP2, one rank",
    "core/run, FSDP1 of one rank": "FSDP1, one rank",
    "core/resume": "resumed = unbroken: two iterations, weights compared",
}
"""Every check, and what a page calls it."""
SPEEDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "generated, tokens/s": lambda e: e.get("generated_tokens_per_s"),
    "scored, tokens/s": lambda e: e.get("scored_tokens_per_s"),
    "trained, tokens/s": lambda e: e.get("trained_tokens_per_s"),
    "MFU of the update": lambda e: e.get("update_mfu"),
    "peak while playing, GiB": lambda e: e.get("play_peak_gib"),
    "peak of the update, GiB": lambda e: e.get("peak_gib"),
    "the same with PaW, GiB": lambda e: e.get("paw_peak_gib"),
    "update, s": lambda e: e.get("update_s"),
    "PaW over GRPO, update time": lambda e: e.get("paw_over_grpo"),
    "a turn of 128 episodes, s": lambda e: e.get("turn_s"),
    "tokens of an action: mean, longest": lambda e: (
        f"{written(e['action_tokens'])}, {written(e['longest_action'])}" if "action_tokens" in e else None
    ),
    "rounds after the warm-up": lambda e: (e["rounds"] if e.get("warm") else 0) if "rounds" in e else None,
}
PAPER = {
    "play, s (50 turns of 128 episodes: from above)": "play_s",
    "scoring, s (3,500 rows of 830 tokens)": "scoring_s",
    "update, s (the same rows, PaW)": "update_s",
    "whole iteration, s": "iteration_s",
}
CASES = [f"{shape}, {kind}" for shape in ("0.5B", "1.5B") for kind in ("nothing shared", "groups of identical prompts")]
TRL = ("TRL, GRPO", "GRPO", "GRPO + PaW")
SUPPORT = {  # row of the table: the checks that have to pass, and what else is to be said
    "single device, full model or LoRA": (("core/run, float32", "core/run, LoRA"), ""),
    "DDP, FSDP2": (("core/run, DDP of one rank", "core/run, FSDP2 of one rank"), "one rank"),
    "FSDP1": (("core/run, FSDP1 of one rank",), "one rank, float32"),
    "native, paged": (("core/run, float32", "core/run, paged sampler"), ""),
    "bfloat16": (("core/kernel, bfloat16", "core/run, bf16-mixed"), ""),
    "bf16-true, 64-true, 16-true": (("core/run, bf16-true",), "bf16-true"),
    "SDPA and eager attention": (("core/branches, sdpa", "core/branches, eager"), ""),
    "the paper's own settings": (("speed/1.5B",), "two turns and one optimizer step, random weights"),
}
"""A part of the row's first cell, which names it -> entries."""


def written(value: Any) -> str:
    """A number as tables have it; nothing for what is not known."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], aligned: str = "--:") -> str:
    """A Markdown table, all columns but the first aligned so."""
    rule = "|---|" + f"{aligned}|" * (len(head) - 1)
    first, *others = ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in [head, *rows]]
    return "\n".join([first, rule, *others])


def state(found: dict[str, Any] | None) -> str:
    """Whether a check has passed."""
    if found is None:
        return NOT_YET
    return f"failed: {found['failed']}" if "failed" in found else "passed"


def core(entries: Entries) -> str:
    """A line for each check of the core."""
    rows = []
    for key, title in CORE.items():
        found = entries.get(key)
        plain = {"failed", "seconds", "device", "date"}
        known = {name: value for name, value in (found or {}).items() if name not in plain}
        numbers = [f"{name.replace('_', ' ')} {_told(value)}" for name, value in known.items()]
        rows.append([title, state(found), "; ".join(numbers)])
    return table(["check", "result", "numbers"], rows, "---")


def _told(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else written(value)


def column(found: dict[str, Any] | None, read: Callable[[dict[str, Any]], Any]) -> str:
    """A cell of a table of figures: the figure, why there is none, or that nobody has run it."""
    if found is None:
        return NOT_YET
    value = read(found)
    return written(value) or (f"failed: {found['failed']}" if "failed" in found else "not reached")


def speeds(entries: Entries) -> str:
    """Both shapes side by side, and the paper's iteration."""
    shapes = [entries.get(f"speed/{shape}") for shape in ("0.5B", "1.5B")]
    rows = [[name, *(column(found, read) for found in shapes)] for name, read in SPEEDS.items()]
    whole = [
        [name, column(shapes[1], lambda found, key=key: found.get("paper", {}).get(key))]  # type: ignore[misc]
        for name, key in PAPER.items()
    ]
    estimate = table(["an iteration of the paper's shape, estimated from the 1.5B column", "seconds"], whole)
    return table(["", "0.5B", "1.5B"], rows) + "\n\n" + estimate


def samplers(entries: Entries) -> str:
    """Tokens per second of each contender."""
    rows = []
    for case in CASES:
        found = entries.get(f"samplers/{case}")
        cells = [
            column(found, lambda found, key=f"{name}_tokens_per_s": found.get(key))  # type: ignore[misc]
            for name in ("native", "generate", "generate_batch")
        ]
        rows.append([case, *cells])
    return table(["tokens/s", "native", "`generate`", "`generate_batch`"], rows)


def trl(entries: Entries) -> str:
    """An iteration on both sides."""
    keys = ("play_s", "scoring_s", "update_s", "steps_per_s")
    rows = []
    for name in TRL:
        found = entries.get(f"trl/{name}")
        cells = [column(found, lambda found, key=key: found.get(key)) for key in keys]  # type: ignore[misc]
        rows.append([name if name.startswith("TRL") else f"paw_lightning, {name}", *cells])
    return table(["", "play, s", "scoring, s", "update, s", "environment steps/s"], rows)


def replay(entries: Entries) -> str:
    """An iteration that plays, and one that reads what was played."""
    found = entries.get("replay/SmolLM2")
    keys = {"a run, s": "run_s", "its replay, s": "replay_s", "times as fast": "times_as_fast"}
    cells = [column(found, lambda found, key=key: found.get(key)) for key in keys.values()]  # type: ignore[misc]
    return table(["an iteration of", *keys], [["SmolLM2, replay with `wm/ce`", *cells]])


def study(entries: Entries) -> str:
    """Success by arm where all arms of a seed still ran, and the difference from GRPO."""
    start = column(entries.get("study/warm start"), lambda found: found.get("success"))
    head = f"Success of the warm start: {start}.\n\n"
    found = entries.get("study/runs")
    if found is None:
        rows = [[arm, NOT_YET, "", ""] for arm in ("GRPO", "GRPO + PaW", "placebo", "ECHO")]
        return head + table(["arm", "success", "minus GRPO, 95 % interval", "seeds"], rows)
    told = summary(found.get("runs", {}))
    under = f"\n\nAfter {told.iteration} iterations."
    if told.iteration is None:
        under = "\n\nNo seed has reached a measurement with all four arms."
    elif told.iteration != found.get("iterations"):
        under += f" The time ended runs of {found.get('iterations')}."
    rows = [
        [arm, written(line.mean), _interval(line.difference, line.interval), str(len(told.seeds))]
        for arm, line in told.arms.items()
    ]
    under += "".join(f"\n\n{run} failed: {reason}" for run, reason in found.get("failures", {}).items())
    under += f"\n\nIt failed: {found['failed']}" if "failed" in found else ""
    return head + table(["arm", "success", "minus GRPO, 95 % interval", "seeds"], rows) + under


def _interval(difference: float | None, interval: tuple[float, float] | None) -> str:
    if difference is None:
        return ""
    return f"{difference:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else " (one seed)")


def machine(entries: Entries) -> str:
    """What the figures are of."""
    found = entries.get("machine")
    if found is None:
        return f"Machine: {NOT_YET}."
    cards = sorted({f"{entry['device']} ({entry['date']})" for entry in entries.values()})
    parts = [name for name in ("python", "torch", "transformers", "lightning") if name in found]
    versions = ", ".join(f"{name} {found[name]}" for name in parts)
    speed = f"; {found['bfloat16_tflops']:,.0f} TFLOP/s in a bfloat16 product" if "bfloat16_tflops" in found else ""
    return f"Machine: {'; '.join(cards)}; {versions}{speed}."


def steps(results: record.Record) -> str:
    """How each step ended."""
    rows = []
    for name in ("core", "0.5B", "1.5B", "samplers", "trl", "replay", "study"):
        found = results["steps"].get(name)
        if found is None:
            rows.append([name, NOT_YET, "", ""])
            continue
        ended = found["status"] + (f": {found['reason']}" if found["reason"] else "")
        rows.append([name, ended, written(found["seconds"]), written(found["limit"])])
    return table(["step", "how it ended", "seconds", "of at most"], rows)


SECTIONS = {
    "core": core,
    "speeds": speeds,
    "samplers": samplers,
    "trl": trl,
    "replay": replay,
    "study": study,
    "machine": machine,
}


def between(text: str, name: str, content: str) -> str:
    """The text with this content between the two marks of a name; ValueError where it has none."""
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if first not in text or last not in text:
        raise ValueError(f"there is no place for {name}; wanted a line {first.strip()} and a line {last}")
    before, rest = text.split(first, 1)
    return f"{before}{first}\n{content.strip()}\n\n{last}{rest.split(last, 1)[1]}"


def page(text: str, results: record.Record) -> str:
    """docs/gpu.md with these results."""
    for name, make in SECTIONS.items():
        text = between(text, name, make(results["entries"]))
    return between(text, "steps", steps(results))


def supported(text: str, entries: Entries) -> str:
    """docs/support.md with its GPU column filled in; rows that no check is about stay as they are."""
    lines = text.split("<!-- gpu -->\n", 1)[1].split("<!-- end of gpu -->", 1)[0].strip().splitlines()
    made = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        keys, said = next((kept for part, kept in SUPPORT.items() if part in cells[0].replace("`", "")), ((), ""))
        if keys:
            cells[-1] = _support([entries.get(key) for key in keys], said)
        made.append(line if not keys else "| " + " | ".join(cells) + " |")
    return between(text, "gpu", "\n".join(made))


def _support(found: Sequence[dict[str, Any] | None], said: str) -> str:
    known = [entry for entry in found if entry is not None]
    if len(known) < len(found):
        return NOT_YET
    if failed := [entry["failed"] for entry in known if "failed" in entry]:
        return f"failed: {failed[0]}"
    return ", ".join(filter(None, [f"yes: {known[-1]['device']}", said]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="*", help="gpu.json of calls, older ones first")
    parser.add_argument("--print", dest="printed", action="store_true", help="print the tables, write nothing")
    options = parser.parse_args()
    given = [record.read(path) for path in options.results]
    if options.printed:
        results = record.merged(given)
        print("\n\n".join([steps(results), *(make(results["entries"]) for make in SECTIONS.values())]))
        return
    if any(entry["device"] == "cpu" for part in given for entry in part["entries"].values()):
        raise SystemExit("the results are a rehearsal's, of a CPU; wanted those of a CUDA device, or --print")
    results = record.merged([record.read(DOCUMENTS / "gpu.json"), *given])
    record.write(DOCUMENTS / "gpu.json", results)
    for name, text in (
        ("gpu.md", page((DOCUMENTS / "gpu.md").read_text(), results)),
        ("support.md", supported((DOCUMENTS / "support.md").read_text(), results["entries"])),
    ):
        (DOCUMENTS / name).write_text(text)


if __name__ == "__main__":
    main()
