"""The report of a comparison: what the runs' curves say, as Markdown, JSON, PNG, and one HTML page with all of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from compare_page import page
from compare_plots import plot
from compare_results import ArmSummary, Results, summarise
from compare_words import notes, tables, verdicts


def markdown(results: Results, rows: list[ArmSummary]) -> str:
    """Tables, verdicts, notes, failures."""
    parts = []
    for group, (header, *cells) in tables(results, rows):
        lines = [header, ["---"] * len(header), *cells]
        parts += [f"## {group}" if group else "", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    parts.append("\n".join(f"- {line}" for line in verdicts(results, rows)))
    parts += notes(results, rows)
    parts += [f"**{f}**\n\n```\n{f.log}\n```" for f in results.failures]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(results: Results, output: Path) -> str:
    """Write report.md, report.json, curves.png and report.html; returns the Markdown."""
    rows = summarise(results)
    text = markdown(results, rows)
    plot(results, rows, output / "curves.png")
    (output / "report.md").write_text(text)
    (output / "report.html").write_text(page(results, rows, (output / "curves.png").read_bytes()))
    content = {
        "metric": results.metric,
        "base": results.base,
        "last_points": results.last_points,
        "also": results.also,
        "arms": [asdict(row) for row in rows],
        "verdicts": verdicts(results, rows),
        "notes": notes(results, rows),
        "curves": {n: {seed: asdict(c) for seed, c in curves.items()} for n, curves in results.arms.items()},
        "failures": [asdict(failure) for failure in results.failures],
        "unfinished": [str(run) for run in results.unfinished],
    }
    (output / "report.json").write_text(json.dumps(content, indent=1))
    return text
