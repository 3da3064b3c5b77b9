"""The comparison is a command of the package."""

import sys

if __name__ == "__main__":
    given = " ".join(sys.argv[1:]) or "STUDY"
    print(f"error: the command is python tools/compare.py; wanted paw-lightning compare {given}", file=sys.stderr)
    sys.exit(2)
