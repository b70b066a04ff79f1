#!/usr/bin/env python3
"""ARCHITECTURE.md's map against the files: every folder with sources is on it, and every path on it exists.

Documents may name only files that are in the repository: paths such as `daemon/src/x.rs` in *.md are looked up too.
"""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tracked():
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in out.stdout.splitlines() if (ROOT / path).exists()]


def on_map(text):
    """Folders that the map names, as paths from the root."""
    block = re.search(r"<!-- map:.*?-->\n```\n(.*?)```", text, re.S).group(1)
    found, base = set(), ""
    for line in block.splitlines():
        if not line.startswith(" "):
            base = line.split()[0].rstrip("/")
            found.add(base)
            continue
        for word in line.split():
            if not word.endswith("/"):
                break
            found.add(f"{base}/{word.rstrip('/')}")
    return found


def main():
    files = tracked()
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = on_map(text)
    sources = {str(Path(path).parent) for path in files if re.match(r"[a-z]+/src/", path)}
    wrong = [f"{folder} is not on the map" for folder in sorted(sources - named) if not folder.startswith(("tests/", "fuzz/"))]
    folders = {str(parent) for path in files for parent in Path(path).parents}
    wrong += [f"the map names {folder}, which does not exist" for folder in sorted(named - folders)]
    known = set(files) | folders
    for document in [path for path in files if path.endswith(".md") and path != "CHANGELOG.md"]:
        for path in re.findall(r"`((?:[a-z]+)/(?:src|tests)/[\w./-]+)`", (ROOT / document).read_text()):
            if path.rstrip("/") not in known and not any(part in path for part in ("*", "{")):
                wrong.append(f"{document} names {path}, which does not exist")
    for line in wrong:
        print(f"check-map: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
