"""``python -m tests.documents --write`` writes the generated parts of docs/ and the pictures."""

import sys

from tests.documents.pages import WRITE, write

if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(f"usage: {WRITE}")
    write()
