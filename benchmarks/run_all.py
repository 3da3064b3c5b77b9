"""Run every benchmark and write its tables into docs/benchmarks.md, its numbers into docs/benchmarks.json.

    python benchmarks/run_all.py [--quick] [--only end_to_end sampler] [--device cuda --dtype bfloat16]

About 40 minutes on two quiet cores; --quick (the smallest sizes) takes three and leaves the documents alone. A
benchmark that fails is reported, and keeps its old table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT, NUMBERS = ROOT / "docs/benchmarks.md", ROOT / "docs/benchmarks.json"
PICTURE = ROOT / "docs/images/scaling.png"
COMMON = ("end_to_end", "sampler", "paw_overhead", "layouts", "model_step", "scaling")
"""What takes --device, --dtype and --quick."""
APART = {
    "head_kernel": ["--tokens", "4096", "--threads", "2"],
    "household_engine": [],
    "shop_engine": ["--goals", "100", "--large", "5000"],
}


def command(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """The command line of one benchmark."""
    line = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py")]
    if name in APART:
        return line + APART[name]
    line += ["--device", options.device, "--dtype", options.dtype, "--json", str(folder / f"{name}.json")]
    if name == "scaling" and not options.quick:
        line += ["--png", str(PICTURE)]
    return line + (["--quick"] if options.quick else [])


def inserted(text: str, name: str, tables: str) -> str:
    """The document with these tables between the marks of a benchmark; ValueError where it has no such marks."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if start not in text or end not in text:
        raise ValueError(f"docs/benchmarks.md has no place for {name}; wanted a line {start.strip()} and a line {end}")
    before, rest = text.split(start, 1)
    return before + start + "\n" + tables.strip() + "\n\n" + end + rest.split(end, 1)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*COMMON, *APART], default=[*COMMON, *APART])
    options = parser.parse_args()
    numbers = json.loads(NUMBERS.read_text()) if NUMBERS.is_file() else {}
    failed = []
    for name in options.only:
        print(f"\n## {name}\n", flush=True)
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
            line = command(name, options, Path(folder))
            ran = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
            if ran.returncode:
                log.seek(0)
                print(log.read()[-2000:], f"{name} failed", sep="\n", flush=True)
                failed.append(name)
                continue
            found = Path(folder, f"{name}.json")
            numbers[name] = json.loads(found.read_text()) if found.is_file() else {"printed": ran.stdout}
        seconds = time.monotonic() - start
        numbers[name] |= {"seconds": seconds, "date": datetime.date.today().isoformat()}
        print(f"{ran.stdout}\n({seconds:.0f} s)", flush=True)
        if not options.quick:
            DOCUMENT.write_text(inserted(DOCUMENT.read_text(), name, ran.stdout))
            NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
