"""A hosted page from its entry in `spaces.yaml`: the Space's folder written to disk, and handed to the hub.

The folder holds all that the Space runs: code, the models and assets on offer, requirements, the README whose head the hub reads. Values of
secrets are never in it: they go from the environment to the hub.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from packaging.specifiers import SpecifierSet

from fusion.hosting import TARGET
from fusion.manifest import FILE, Target
from models import room
from models.catalog import REPOSITORY, catalog

CODE = (".py", ".yaml", ".js", ".css", ".json", ".html", ".md", ".gz")  # .gz: the word pieces that single files come without
FOLDERS = ("assets/first_screen", "assets/targets")  # what the page shows before any click
FILES = ("app.py", "LICENSE", "assets/models/portraits/probe.safetensors",
         "assets/studies/evidence/evidence.json", "assets/studies/recommendation/recommendation.json")  # what the page recommends
GIVEN = "SPACE_SECRET_"  # + NAME: the environment variable that holds a secret's value where `deploy` runs


class DeployError(ValueError):
    """A page cannot be rendered or deployed; the message names the cause and the cure."""


@dataclass(frozen=True)
class Rendered:
    """A Space's folder: how many files, how many bytes."""

    folder: Path
    files: int
    size: int


# ------------------------------------------------------------------------------------------------ the folder

def render(target: Target, out: Path, root: Path = REPOSITORY) -> Rendered:
    """Write the Space's folder to `out`, which must be empty or new. Raises DeployError for models that are not here."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DeployError(f"{out} is not an empty folder: choose another with --out, or empty it")
    places = sorted({*_code(root), *_assets(target, root)})
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeployError(f"the folder {out} cannot be made ({error.strerror}): choose another with --out") from None
    room.require(out, sum((root / place).stat().st_size for place in places))
    for place in places:
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / place, out / place)  # what a link points to: the hub stores equal files once
    entry = yaml.safe_load(FILE.read_text(encoding="utf-8"))[target.name]
    written = {
        "spaces.yaml": f"# The entry this Space was rendered from.\n{_yaml({target.name: entry})}",
        "requirements.txt": requirements(target, root),
        "README.md": readme(target, root),
    }
    for name, text in written.items():
        (out / name).write_text(text, encoding="utf-8")
    files = [file for file in out.rglob("*") if file.is_file()]
    return Rendered(out, len(files), sum(file.stat().st_size for file in files))


def _code(root: Path) -> Iterator[str]:
    yield from (name for name in FILES if (root / name).is_file())
    for package in ("fusion", "models"):
        yield from _below(root, package, CODE)


def _below(root: Path, place: str, suffixes: tuple[str, ...] | None = None) -> Iterator[str]:
    """Files below a folder, relative to the root; nothing hidden, nothing compiled."""
    for folder, names, files in os.walk(root / place, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith(".") and name != "__pycache__")
        for name in files:
            if not name.startswith(".") and (suffixes is None or Path(name).suffix in suffixes):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _assets(target: Target, root: Path) -> Iterator[str]:
    """Files of the models on offer and of what belongs to them."""
    unknown = [name for name in target.models or () if name not in catalog]
    if unknown:
        raise DeployError(f"spaces.yaml offers {', '.join(unknown)} at {target.name}.models, and the catalog has none such: correct it")
    for folder in FOLDERS:
        yield from _below(root, folder)
    for card in (catalog[name] for name in (catalog if target.models is None else target.models)):
        for place in (card.source, *(one.source for one in card.adapters)):
            if place.startswith("assets/"):
                found = list(_below(root, place))
                if not found:
                    raise DeployError(f"{card.id} is on offer at {target.name}, and {place} is empty: fetch or train it, or take it off")
                yield from found
        for name in ("calibration", "thumbnail", "representation"):
            place = getattr(card, name, None)
            if place and (root / "assets" / place).is_file():
                yield f"assets/{place}"


def pins(root: Path = REPOSITORY) -> dict[str, str]:
    """`{name: version}` of constraints.txt, names in lower case with dashes."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {_plain(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def requirements(target: Target, root: Path = REPOSITORY) -> str:
    """requirements.txt: our direct dependencies at the versions we test with, except where the target's hardware wants others."""
    with open(root / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    if not SpecifierSet(project["requires-python"]).contains(target.python_version):
        needed = project["requires-python"]
        raise DeployError(f"spaces.yaml gives {target.name} Python {target.python_version}, and we need {needed}: correct it")
    pinned, wanted = pins(root), {_plain(name): spec for name, spec in target.requirements.items()}
    lines = []
    for dependency in project["dependencies"]:
        name = re.match(r"[A-Za-z0-9_.-]+", dependency).group()
        exact = f"=={pinned[_plain(name)]}" if _plain(name) in pinned else dependency[len(name) :]
        lines.append(name + wanted.pop(_plain(name), exact).replace(" ", ""))
    return "\n".join([*lines, *(name + spec.replace(" ", "") for name, spec in wanted.items())]) + "\n"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip().lower())


def _yaml(content: Mapping) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def readme(target: Target, root: Path = REPOSITORY) -> str:
    """The Space's README: the head that the hub reads, and what the page is."""
    head = dict(target.front_matter) | {
        "sdk": "gradio",
        "sdk_version": pins(root)["gradio"],
        "python_version": target.python_version,
        "app_file": "app.py",
        "suggested_hardware": target.hardware,
    }
    offer = "whatever you add by hub id" if target.models is None else ", ".join(catalog[name].title for name in target.models)
    limits = target.limits
    return f"""---
{_yaml(head).strip()}
---

# {target.front_matter["title"]}

You have several fine-tuned text-to-image models and a handful of images. This page measures how the models see your images, tells in which
proportions they make images like yours, and draws with them side by side. It says so when mixing does not help.

Models on offer: {offer}. At once: {limits.models} models, {limits.images} target pictures, {limits.samples} images of a method in
{limits.steps} steps. Pictures that you drop here travel to this server and are deleted when you close the page.

Rendered with `python -m fusion deploy {target.name}`; the same page runs on your own machine with `python -m fusion serve`.
"""


# ------------------------------------------------------------------------------------------------ to the hub

def secrets_of(target: Target, environment: Mapping[str, str]) -> dict[str, str]:
    """Values of the target's secrets from the environment. Raises DeployError naming those that are missing."""
    missing = [GIVEN + name for name in target.secrets if not environment.get(GIVEN + name)]
    if missing:
        raise DeployError(f"{target.name} needs secrets that are not in the environment: set {', '.join(missing)}")
    return {name: environment[GIVEN + name] for name in target.secrets}


def deploy(target: Target, folder: Path, *, repository: str | None = None, environment: Mapping[str, str] = os.environ, api=None) -> str:
    """Create or renew the Space from its rendered folder; the address of its page. Raises DeployError with cause and cure.

    `environment`: holds the token as HF_TOKEN, and the secrets. `api`: a `huggingface_hub.HfApi` (made from the token where None).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    token, secrets = environment.get("HF_TOKEN"), secrets_of(target, environment)
    if not token:
        raise DeployError("no token: set HF_TOKEN to one with write access (it is made on the hub's settings page)")
    api = api or HfApi(token=token)
    name = repository or target.repository
    try:
        name = name if "/" in name else f"{api.whoami()['name']}/{name}"
        api.create_repo(name, repo_type="space", space_sdk="gradio", private=target.private, exist_ok=True)
        for key, value in {**target.variables, TARGET: target.name}.items():
            api.add_space_variable(name, key, value)
        for key, value in secrets.items():
            api.add_space_secret(name, key, value)
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="space", commit_message=f"Render {target.name}", delete_patterns="*")
        if api.get_space_runtime(name).requested_hardware != target.hardware:
            api.request_space_hardware(name, target.hardware)
    except HfHubHTTPError as error:
        raise DeployError(_reason(error, name, target)) from None
    except OSError as error:  # no connection, a time-out
        raise DeployError(f"the hub cannot be reached ({type(error).__name__}): check the connection and run it again") from None
    return f"https://huggingface.co/spaces/{name}"


def _reason(error, name: str, target: Target) -> str:
    """What the hub's refusal means, and what to do."""
    status = getattr(error.response, "status_code", None)
    causes = {
        401: "the hub does not accept the token in HF_TOKEN: make a new one with write access",
        402: f"the hub wants payment for the hardware {target.hardware}: choose another in spaces.yaml, or add a payment method",
        403: f"the token may not write to {name}: use one with write access to it, or name your own Space with --repository OWNER/NAME",
        404: f"the hub knows no {name}, or hides it from this token: check its owner",
        429: "the hub has had too many requests: wait some minutes and run it again",
    }
    said = " ".join(str(getattr(error, "server_message", None) or error).split())[:300]
    return f"{causes.get(status, f'the hub refused {name}')} (it answered {status}: {said})"
