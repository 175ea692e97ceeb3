"""The README's tree, written from the first sentence of every file: `python -m tests.readme_tree` renews it."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {".py", ".js", ".css", ".yaml"}


def files() -> list[Path]:
    """Everything git tracks, relative to the root."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in sorted(listed.split("\n")) if name]


def clause(file: Path) -> str:
    """The first sentence of a docstring or opening comment, without its full stop."""
    text = (ROOT / file).read_text()
    opening = ast.get_docstring(ast.parse(text)) if file.suffix == ".py" else re.sub(r"^\s*(?:/\*+|//|#)\s*", "", text).split("*/")[0]
    first = re.split(r"\.(?:\s+(?=[A-Z`'\"])|\s*$|\s*\n)|\n\s*(?:#|//|\*|\n)", opening or "", maxsplit=1)[0]
    return " ".join(first.split())


def tree() -> str:
    """One line a file of code: indented name, clause."""
    lines, seen = [], set()
    for file in sorted(files(), key=lambda file: (file.parent, file.name)):
        if file.suffix not in KINDS or file.name == "__init__.py":
            continue
        folder = file.parent
        if folder != Path(".") and folder not in seen:
            seen.add(folder)
            lines.append(f"{folder}/")
        name = file.name if folder == Path(".") else f"    {file.name}"
        lines.append(f"{name:<30} {clause(file)}")
    return "\n".join(lines)


def renewed(readme: str) -> str:
    """The README with its tree replaced."""
    head, tail = readme.split("## The tree\n", 1)
    return f"{head}## The tree\n\n```\n{tree()}\n```\n" + tail.split("```\n", 2)[2]


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(renewed(path.read_text()))
