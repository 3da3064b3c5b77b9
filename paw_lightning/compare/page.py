"""The report of a comparison as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
from urllib.parse import quote

from paw_lightning.compare.results import Results, final_values
from paw_lightning.compare.words import Section

NAMED_ARMS = 4
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 84rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.84rem }
th, td { padding: 0.4rem 0.45rem; text-align: right; border-bottom: 1px solid #d8dee4; vertical-align: top }
td { white-space: nowrap }
th { font-weight: 600; border-bottom: 2px solid #1b1f24; vertical-align: bottom; line-height: 1.3 }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
table:not(.runs) :is(th, td):nth-child(2) { text-align: left; white-space: normal }
img { width: 100%; max-width: 62rem; display: block; margin: 1.5rem 0 }
ul, p { max-width: 62rem }
.notes { color: #57606a; font-size: 0.9rem }
summary { color: #b3261e; cursor: pointer }
code span { display: inline-block; max-width: 100%; overflow-wrap: anywhere }
pre, code { font: 0.8rem/1.5 ui-monospace, monospace }
pre { background: #f6f8fa; padding: 0.8rem; overflow-x: auto }
"""


def page(results: Results, sections: list[Section], notes: list[str], png: bytes) -> str:
    """The whole report as one HTML page that needs nothing else."""
    arms = ", ".join(results.arms) if len(results.arms) <= NAMED_ARMS else f"{len(results.arms)} arms"
    title = html.escape(f"{results.metric}: {arms}")
    failures = [
        f"<details><summary>{html.escape(str(f))}</summary><pre>{html.escape(f.log)}</pre></details>"
        for f in results.failures
    ]
    commands = [f"<li>{html.escape(name)}: {_command(command)}</li>" for name, command in results.commands.items()]
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>",
        "<meta name='viewport' content='width=device-width'><link rel='icon' href='data:,'>",
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>",
        *map(_section, sections),
        f"<img alt='every run' src='data:image/png;base64,{base64.b64encode(png).decode()}'>",
        *(f"<p class='notes'>{html.escape(line)}</p>" for line in notes),
        _every_run(results),
        *(["<h2>Failed</h2>", *failures] if failures else []),
        f"<section><h2>Arms</h2><ul>{''.join(commands)}</ul></section></body></html>",
    ]
    return "\n".join(parts)


def _section(section: Section) -> str:
    header, *cells = section.table
    lines = [_table_row(header, "th"), *(_table_row(line, "td") for line in cells)]
    heading = f"<h2>{html.escape(section.heading)}</h2>" if section.heading else ""
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in section.sentences)
    return f"{heading}<div class='wide'><table>{''.join(lines)}</table></div><ul>{sentences}</ul>"


def _every_run(results: Results) -> str:
    """A row for each arm, a column for each seed: what counts of a run, with a link to its folder."""
    missing = {
        (run.arm, run.seed): word
        for word, runs in (("failed", results.failures), ("not finished", results.unfinished))
        for run in runs
    }
    seeds = sorted({seed for _, seed in missing}.union(*results.arms.values()))
    lines = [_table_row(["arm", *(f"seed {seed}" for seed in seeds)], "th")]
    for arm in (name for names in results.tables().values() for name in names):
        ends = {seed: f"{value:.3f}" for seed, value in final_values(results, arm).items()}
        cells = [_run_link(arm, seed, ends.get(seed) or missing.get((arm, seed), "")) for seed in seeds]
        lines.append(f"<tr><td>{html.escape(arm)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    heading = f"<h2>Every run</h2><p>{html.escape(results.metric)} at the end; each links to its run's folder.</p>"
    return f"{heading}<div class='wide'><table class='runs'>{''.join(lines)}</table></div>"


def _run_link(arm: str, seed: int, text: str) -> str:
    return f"<a href='{quote(arm)}/seed_{seed}/'>{text}</a>" if text else "-"


def _command(command: str) -> str:
    """Broken between arguments, not after a hyphen."""
    return f"<code>{' '.join(f'<span>{html.escape(argument)}</span>' for argument in command.split())}</code>"


def _table_row(cells: list[str], tag: str) -> str:
    texts = [_breakable(html.escape(cell)) if tag == "th" else html.escape(cell) for cell in cells]
    return f"<tr>{''.join(f'<{tag}>{text}</{tag}>' for text in texts)}</tr>"


def _breakable(header: str) -> str:
    """A curve's tag may be broken within, a comparison before its right side alone."""
    if "/" in header:
        return header.replace("/", "/<wbr>").replace("_", "_<wbr>")
    return header.replace(" &gt;", "&nbsp;&gt;")
