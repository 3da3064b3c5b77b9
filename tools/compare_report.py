"""The report of a comparison: what the runs' curves say, as Markdown, JSON, PNG, and one HTML page with all of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from compare_page import page
from compare_plots import plot
from compare_results import ArmSummary, Results, further_differences, summarise
from compare_words import notes, sections


def markdown(results: Results, rows: list[ArmSummary]) -> str:
    """Tables with their verdicts, notes, failures."""
    parts = []
    for section in sections(results, rows):
        header, *cells = section.table
        lines = [header, ["---"] * len(header), *cells]
        parts += [f"## {section.heading}" if section.heading else ""]
        parts += ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
        parts += ["\n".join(f"- {sentence}" for sentence in section.sentences)]
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
        "further_pairs": [asdict(difference) for difference in further_differences(results)],
        "verdicts": [sentence for section in sections(results, rows) for sentence in section.sentences],
        "notes": notes(results, rows),
        "curves": {n: {seed: asdict(c) for seed, c in curves.items()} for n, curves in results.arms.items()},
        "failures": [asdict(failure) for failure in results.failures],
        "unfinished": [str(run) for run in results.unfinished],
    }
    (output / "report.json").write_text(json.dumps(content, indent=1))
    return text
