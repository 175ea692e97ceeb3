"""A rendered Space in an environment of its own: `python -m tests.benchmarks.space [--target cpu-demo] [--python PATH] [--torch VERSION]`.

Renders the folder, makes a fresh virtual environment with that Python, installs the folder's requirements.txt and nothing else, starts
app.py there with an empty environment, asks for the front page and the configuration over HTTP, and fits two shipped models to four
pictures with the same interpreter. Prints JSON. Minutes, and as much to download as the requirements are large; `--torch` names the build
to take within the Space's range (default: the one installed here; `any`: whatever pip takes).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from fusion.deploy import render, requirements
from fusion.hosting import TARGET
from fusion.manifest import targets
from fusion.processes import free_port

KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PIP_CONFIG_FILE", "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")


def timed(command: list, **more) -> tuple[float, str]:
    """Seconds and standard output. Raises SystemExit with the end of what was said when it fails."""
    start = time.monotonic()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))[:200]} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return time.monotonic() - start, done.stdout


def installed(folder: Path, python: str, torch: str, target) -> tuple[Path, float]:
    """The environment's interpreter, and how long the installation took."""
    environment, constraint = folder / "venv", folder / "constraint.txt"
    constraint.write_text("" if torch == "any" else f"torch=={torch}\n")
    (folder / "requirements.txt").write_text(requirements(target))
    timed([python, "-m", "venv", environment])
    inside = environment / "bin" / "python"
    seconds, _ = timed([inside, "-m", "pip", "install", "--quiet", "-r", folder / "requirements.txt", "-c", constraint])
    return inside, seconds


def answers(inside: Path, space: Path, name: str) -> dict:
    """Start the page as a Space would and ask it over HTTP."""
    port = free_port()
    environment = {key: os.environ[key] for key in KEPT if key in os.environ} | {"SPACE_ID": "owner/space", TARGET: name}
    start = time.monotonic()
    with open(space.parent / "app.log", "w+") as log:
        process = subprocess.Popen([str(inside), "app.py", "--port", str(port)], cwd=space, env=environment, stdout=log, stderr=log)
        try:
            while True:
                try:
                    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).read().decode()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() - start > 300:
                        log.seek(0)
                        raise SystemExit(f"the page did not start:\n{log.read()[-4000:]}") from None
                    time.sleep(0.2)
            seconds = time.monotonic() - start
            config = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=20))
        finally:
            process.terminate()
            process.wait(30)
    if "ScoreFusion Studio" not in page or "Harbor" not in page:
        raise SystemExit("the page answered without its first screen")
    return {"start_seconds": round(seconds, 1), "gradio": config["version"], "page_bytes": len(page)}


def fits(inside: Path, space: Path) -> dict:
    """Two shipped models, four pictures, with the Space's own code and packages."""
    pictures = space.parent / "pictures"
    pictures.mkdir()
    for file in sorted((space / "assets/targets/valley/fit").glob("*.png"))[:4]:
        (pictures / file.name).write_bytes(file.read_bytes())
    command = [inside, "-m", "fusion", "fit", "--models", "portraits/harbor", "portraits/summit", "--images", pictures, "--caption",
               "a portrait of a cook", "--out", space.parent / "fit.json", "--device", "cpu", "--json"]  # fmt: skip
    environment = {key: os.environ[key] for key in KEPT if key in os.environ}
    seconds, told = timed(command, cwd=space, env=environment)
    return {"fit_seconds": round(seconds, 1), "proportions": json.loads(told)["calibrated"]["members"]}


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    command.add_argument("--target", default="cpu-demo")
    command.add_argument("--python", default=sys.executable, help="the interpreter to make the environment with")
    command.add_argument("--torch", default=importlib.metadata.version("torch"), help="the version to take, or `any`")
    args = command.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, target = Path(temporary), targets()[args.target]
        made = render(target, folder / "space")
        inside, seconds = installed(folder, args.python, args.torch, target)
        versions = "import sys, torch, diffusers; print(sys.version.split()[0], torch.__version__, diffusers.__version__)"
        python, torch, diffusers = timed([inside, "-c", versions], cwd=folder)[1].split()
        found = {"target": target.name, "files": made.files, "megabytes": round(made.size / 1e6, 1), "install_seconds": round(seconds),
                 "python": python, "torch": torch, "diffusers": diffusers}  # fmt: skip
        found |= answers(inside, made.folder, target.name) | fits(inside, made.folder)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
