"""The rules of the house that a program can check: floors, the README's tree, machine paths, what may be committed."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    Path(name)
    for name in sorted(subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())
]
CODE = [file for file in FILES if file.suffix == ".py"]


def imported(file):
    """Absolute names of the modules that a file imports, wherever in it."""
    package = file.with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def below(name, room):
    return name == room or name.startswith(room + ".")


def test_no_arrow_points_up():
    wrong = []
    for file in CODE:
        for name in imported(file):
            if file.parts[0] == "models" and (below(name, "fusion") or below(name, "app")):
                wrong.append((str(file), name))
            if file.parts[0] == "fusion" and file.parts[1] != "ui" and below(name, "fusion.ui"):
                wrong.append((str(file), name))
            door = file.as_posix() == "fusion/commands/serve.py"  # opens the front door, when it runs
            if file.parts[0] == "fusion" and below(name, "app") and not door:
                wrong.append((str(file), name))
            if file.parts[0] in ("models", "fusion", "app.py") and below(name, "tests"):
                wrong.append((str(file), name))
    assert not wrong


def test_the_readme_is_read_in_five_minutes_and_its_tree_is_the_folders_that_are_there():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.encode()) <= 10_000
    lines = readme.split("## The tree")[1].split("```")[1].strip().split("\n")
    assert all(len(line.split(None, 1)) == 2 for line in lines), "every line has its clause"
    rooms, above = set(), ""
    for line in lines:
        name = line.split()[0].rstrip("/")
        above = above if line.startswith(" ") else name
        rooms.add(f"{above}/{name}" if line.startswith(" ") else name)
    assert not [room for room in rooms if not (ROOT / room).exists()]
    assert {file.parent.as_posix() for file in CODE if file.parts[0] in ("fusion", "models")} <= rooms, "a folder of code is missing"


def test_no_machine_path_and_no_registry_host_is_committed():
    pattern = re.compile(r"/(?:work|root|home/\w+)/|py(?:pi)\.org|files\.pythonhosted|download\.py(?:torch)")
    kinds = {".py", ".md", ".toml", ".txt", ".yaml", ".json", ".js", ".css", ".html"}
    texts = [f for f in FILES if f.suffix in kinds or f.name in {"Makefile", "run"}]
    found = [(str(f), hit.group()) for f in texts if (hit := pattern.search((ROOT / f).read_text(errors="replace")))]
    assert not found


def test_no_pickle_is_committed_and_the_repository_stays_small():
    assert not [f for f in FILES if f.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}]
    assert sum((ROOT / f).stat().st_size for f in FILES if not (ROOT / f).is_symlink()) < 100 * 2**20


def test_importing_does_nothing():
    """No module opens files, prints or touches the network at import: only definitions, constants and imports stand at the top."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If)
    for file in CODE:
        if (file.parts[0] in ("models", "fusion") and file.name != "__main__.py") or file.name == "app.py":
            for node in ast.parse((ROOT / file).read_text()).body:
                docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                assert docstring or isinstance(node, allowed), f"{file}:{node.lineno}"
