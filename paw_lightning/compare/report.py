"""The report of a comparison: what the runs' curves say, as Markdown, JSON, PNG, and one HTML page with all of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from paw_lightning.compare.page import page
from paw_lightning.compare.plots import plot
from paw_lightning.compare.results import Results, further_differences, summarise
from paw_lightning.compare.words import Section, notes, sections


def markdown(results: Results, parts: list[Section], lines: list[str]) -> str:
    """Tables with their verdicts, notes, failures."""
    blocks = []
    for part in parts:
        header, *cells = part.table
        table = [header, ["---"] * len(header), *cells]
        blocks += [f"## {part.heading}" if part.heading else ""]
        blocks += ["\n".join(f"| {' | '.join(line)} |" for line in table)]
        blocks += ["\n".join(f"- {sentence}" for sentence in part.sentences)]
    blocks += lines
    blocks += [f"**{f}**\n\n```\n{f.log}\n```" for f in results.failures]
    return "\n\n".join(block for block in blocks if block) + "\n"


def write(results: Results, output: Path) -> str:
    """Write report.md, report.json, curves.png and report.html; returns the Markdown."""
    rows = summarise(results)
    further = further_differences(results)
    parts, lines = sections(results, rows, further), notes(results, rows, further)
    text = markdown(results, parts, lines)
    plot(results, rows, output / "curves.png")
    (output / "report.md").write_text(text)
    (output / "report.html").write_text(page(results, parts, rows, lines, output))
    content = {
        "comparison": results.comparison,
        "codes": sorted(results.codes),
        "changes": results.inherited_changes,
        "metric": results.metric,
        "base": results.base,
        "last_points": results.last_points,
        "also": results.also,
        "arms": [asdict(row) for row in rows],
        "further_pairs": [asdict(difference) for difference in further],
        "verdicts": [sentence for part in parts for sentence in part.sentences],
        "notes": lines,
        "curves": {n: {seed: asdict(c) for seed, c in curves.items()} for n, curves in results.arms.items()},
        "failures": [asdict(failure) for failure in results.failures],
        "unfinished": [str(run) for run in results.unfinished],
    }
    (output / "report.json").write_text(json.dumps(content, indent=1))
    return text
