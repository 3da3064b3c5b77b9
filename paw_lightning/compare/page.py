"""The report of a comparison as one HTML page that needs nothing else: no network, and no script to be read."""

from __future__ import annotations

import html
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from paw_lightning.compare.charts import curves, ends
from paw_lightning.compare.results import ArmSummary, Results, final_values
from paw_lightning.compare.words import Section, meaning

NAMED_ARMS = 4
VIEWERS = ("view.html", "page.html")
"""Pages of a run's episodes that may lie in its folder."""


def page(results: Results, sections: list[Section], rows: list[ArmSummary], notes: list[str], output: Path) -> str:
    """The whole report of the comparison in this folder; links are relative to it."""
    arms = ", ".join(results.arms) if len(results.arms) <= NAMED_ARMS else f"{len(results.arms)} arms"
    heading = html.escape(f"{results.metric}: {arms}")
    finished = sum(map(len, results.arms.values()))
    seeds = len(set().union(*results.arms.values()))
    lead = f"Comparison {output.name}: {_count(finished, 'finished run')} with {_count(seeds, 'seed')}"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{html.escape(output.name)}: {heading}</title>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'><link rel='icon' href='data:,'>",
        f"<style>{_asset('page.css')}</style></head><body><main><h1>{heading}</h1>",
        f"<p class='lead'>{html.escape(lead)}{_missing_runs(results)}.</p>",
        *(_section(results, section, rows) for section in sections),
        _every_run(results, output),
        "<section><h2>How to read this</h2>",
        *(f"<p class='notes'>{html.escape(line)}</p>" for line in notes),
        f"</section>{_failed(results)}{_commands(results)}</main><script>{_asset('page.js')}</script></body></html>",
    ]
    return "\n".join(parts)


def _section(results: Results, section: Section, rows: list[ArmSummary]) -> str:
    """A table, what it supports, and its arms' charts; the further differences have no arms of their own."""
    header, *cells = section.table
    heading = f"<h2>{html.escape(section.heading)}</h2>" if section.heading else ""
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in section.sentences)
    meanings = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning(name, results.metric))}</dd>" for name in header
    )
    lines = "".join(_row(line) for line in cells)
    table = f"<table class='summary'><thead>{_header(results, header)}</thead><tbody>{lines}</tbody></table>"
    own = [row for row in rows if row.group == section.heading] if not section.further else []
    charts = (ends(results, own) + curves(results, [row.arm for row in own])) if own else ""
    return (
        f"<section>{heading}<ul>{sentences}</ul>{_wide(table, section.heading or 'All arms')}"
        f"<details><summary>What the columns mean</summary><dl>{meanings}</dl></details>{charts}</section>"
    )


def _every_run(results: Results, output: Path) -> str:
    """A row for each arm, a column for each seed: what counts of a run, with links to its files."""
    missing = {
        (run.arm, run.seed): word
        for word, runs in (("failed", results.failures), ("not finished", results.unfinished))
        for run in runs
    }
    seeds = sorted({seed for _, seed in missing}.union(*results.arms.values()))
    lines = []
    for arm in (name for names in results.tables().values() for name in names):
        values, base = final_values(results, arm), final_values(results, results.bases[arm])
        cells = []
        for seed in seeds:
            cell = _missing_cell(output, arm, seed, missing.get((arm, seed)))
            if seed in values:
                against = base.get(seed) if results.bases[arm] != arm else None
                cell = _run_cell(output, arm, seed, values[seed], against)
            cells.append(f"<td>{cell}</td>")
        lines.append(f"<tr><th scope='row'>{html.escape(arm)}</th>{''.join(cells)}</tr>")
    columns = "".join(f"<th scope='col'>seed {seed}</th>" for seed in seeds)
    table = f"<table class='runs'><thead><tr><th scope='col'>arm</th>{columns}</tr></thead><tbody>{''.join(lines)}"
    return (
        f"<section><h2>Every run</h2><p class='notes'>{html.escape(results.metric)} at the end; each number links to "
        "its run's folder, where that is here. Below it, with a sign: how far it is from the arm's base with the same "
        "seed.</p>"
        f"{_wide(table + '</tbody></table>', 'Every run')}</section>"
    )


def _run_cell(output: Path, arm: str, seed: int, value: float, base: float | None) -> str:
    folder = f"{quote(arm)}/seed_{seed}/"
    difference = "" if base is None else f"<small>{value - base:+.3f}</small>"
    viewer = next((name for name in VIEWERS if (output / arm / f"seed_{seed}" / name).exists()), None)
    link = "" if viewer is None else f"<small><a href='{folder}{viewer}'>episodes</a></small>"
    return _linked(output, arm, seed, f"{value:.3f}") + difference + link


def _missing_cell(output: Path, arm: str, seed: int, word: str | None) -> str:
    return "-" if word is None else _linked(output, arm, seed, word)


def _linked(output: Path, arm: str, seed: int, text: str) -> str:
    """A link to a run's folder; the text alone where the run was made elsewhere."""
    here = (output / arm / f"seed_{seed}").exists()
    return f"<a href='{quote(arm)}/seed_{seed}/'>{text}</a>" if here else text


def _missing_runs(results: Results) -> str:
    parts = [(len(results.failures), "failed"), (len(results.unfinished), "not finished")]
    return "".join(f", {count} {word}" for count, word in parts if count)


def _failed(results: Results) -> str:
    if not results.failures:
        return ""
    details = "".join(
        f"<details><summary>{html.escape(str(f))}</summary><pre tabindex='0'>{html.escape(f.log)}</pre></details>"
        for f in results.failures
    )
    return f"<section class='failed'><h2>Failed</h2>{details}</section>"


def _commands(results: Results) -> str:
    """Each arm's options of `fit`, broken between arguments and not after a hyphen."""
    lines = []
    for name, command in results.commands.items():
        arguments = " ".join(f"<span>{html.escape(argument)}</span>" for argument in command.split())
        lines.append(f"<li>{html.escape(name)}: <code>{arguments}</code></li>")
    return f"<section><h2>Arms</h2><ul>{''.join(lines)}</ul></section>"


def _wide(table: str, name: str) -> str:
    """A table that scrolls by itself where the page is narrow, by keys as well."""
    return f"<div class='wide' tabindex='0' role='region' aria-label='{html.escape(name)}'>{table}</div>"


def _header(results: Results, cells: list[str]) -> str:
    heads = "".join(
        f"<th scope='col'><abbr title='{html.escape(meaning(cell, results.metric))}'>{_breakable(html.escape(cell))}"
        "</abbr></th>"
        for cell in cells
    )
    return f"<tr>{heads}</tr>"


def _row(cells: list[str]) -> str:
    first, *others = map(html.escape, cells)
    return f"<tr><th scope='row'>{first}</th>{''.join(f'<td>{text}</td>' for text in others)}</tr>"


def _breakable(header: str) -> str:
    """A curve's tag may be broken within, a comparison before its right side alone."""
    if "/" in header:
        return header.replace("/", "/<wbr>").replace("_", "_<wbr>")
    return header.replace(" &gt;", "&nbsp;&gt;")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _asset(name: str) -> str:
    return (resources.files("paw_lightning.compare") / name).read_text()
