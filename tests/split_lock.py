"""Join two resolved requirement files into requirements.lock: the core part, a marker line, then the test tools."""

import re
import sys
from pathlib import Path


def entries(path: str) -> dict[str, str]:
    """Map each requirement's name and version to its whole text."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", Path(path).read_text()):
        if block.strip() and not block.startswith("#"):
            found[re.split(r"[ ;\\]", block)[0]] = block.rstrip()
    return found


def main() -> None:
    """Print the joined lock to standard output."""
    core, everything = entries(sys.argv[1]), entries(sys.argv[2])
    if missing := core.keys() - everything.keys():
        raise SystemExit(f"resolved differently: {sorted(missing)}")
    print("# Made by `make lock`. First part: what backupd runs on.")
    print("\n".join(everything[name] for name in core))
    print("# ---- test tools: from here on only for `make test` and `make check`")
    print("\n".join(text for name, text in everything.items() if name not in core))


if __name__ == "__main__":
    main()
