"""Hosted pages: the manifest is held to its schema, the rendered Space starts from its folder alone, the hub gets what it should."""

import copy
import json
import multiprocessing
import os
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError

from fusion import hosting, processes
from fusion.cli import main
from fusion.deploy import DeployError, deploy, pins, render, requirements
from fusion.manifest import FILE, Limits, ManifestError, checked, targets
from fusion.methods import MethodError
from fusion.stopping import Interrupted
from models.catalog import REPOSITORY, catalog

CONTENT = yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The CPU target's folder, rendered once."""
    folder = tmp_path_factory.mktemp("space") / "rendered"
    return render(targets()["cpu-demo"], folder)


@pytest.fixture
def at(monkeypatch):
    """`at(name)`: this process is a Space deployed as that target, or with None one's own machine."""

    def become(name, space_id="owner/space"):
        hosting.target.cache_clear()
        monkeypatch.setenv(hosting.TARGET, name or "")
        monkeypatch.setenv("SPACE_ID", space_id if name else "")

    yield become
    hosting.target.cache_clear()


# ------------------------------------------------------------------------------------------------ the manifest

def test_the_manifest_names_the_three_targets_and_models_that_exist():
    known = targets()
    assert list(known) == ["cpu-demo", "zerogpu", "private"] and known["private"].private and known["private"].models is None
    for target in known.values():
        assert set(target.models or ()) <= set(catalog) and target.limits.samples >= 1
    assert known["zerogpu"].zerogpu and not known["cpu-demo"].secrets


@pytest.mark.parametrize("change, words", [
    (lambda c: c.clear(), ["at the top"]),
    (lambda c: c["cpu-demo"].pop("limits"), ["cpu-demo", "limits"]),
    (lambda c: c["cpu-demo"]["limits"].update(images=0), ["cpu-demo.limits.images", "0"]),
    (lambda c: c["cpu-demo"]["limits"].update(pictures=3), ["cpu-demo.limits", "pictures"]),
    (lambda c: c["cpu-demo"].update(python_version=3.12), ["cpu-demo.python_version", "3.12"]),
    (lambda c: c["cpu-demo"]["front_matter"].update(short_description="x" * 61), ["cpu-demo.front_matter.short_description"]),
    (lambda c: c["cpu-demo"]["front_matter"].update(colorTo="mauve"), ["cpu-demo.front_matter.colorTo", "mauve"]),
    (lambda c: c["cpu-demo"]["requirements"].update(torch="2.11"), ["cpu-demo.requirements.torch", "2.11"]),
    (lambda c: c["cpu-demo"].update(repository="https://elsewhere/x"), ["cpu-demo.repository"]),
    (lambda c: c["cpu-demo"].update(models=["portraits/harbor"]), ["cpu-demo.models"]),
    (lambda c: c["private"].update(secrets=["hf_abc"]), ["private.secrets", "hf_abc"]),
    (lambda c: c["cpu-demo"]["variables"].update(HF_TOKEN="x"), ["cpu-demo.variables.HF_TOKEN", "secret", "SPACE_SECRET_HF_TOKEN"]),
    (lambda c: c["cpu-demo"]["variables"].update(NAME="hf_" + "a" * 34), ["cpu-demo.variables.NAME", "secret"]),
    (lambda c: c["zerogpu"]["requirements"].update(torch=">=2.8"), ["zerogpu.requirements.torch", "2.11"]),
    (lambda c: c["zerogpu"].update(python_version="3.11"), ["zerogpu.python_version", "3.12.12"]),
    (lambda c: c["zerogpu"].pop("pace"), ["zerogpu", "pace"]),
])  # fmt: skip
def test_a_wrong_manifest_is_refused_with_place_and_cure(change, words):
    content = copy.deepcopy(CONTENT)
    change(content)
    with pytest.raises(ManifestError) as refused:
        checked(content)
    assert all(word in str(refused.value) for word in words) and len(str(refused.value)) < 400


def test_an_unreadable_manifest_is_a_sentence(tmp_path):
    (tmp_path / "spaces.yaml").write_text("a: [")
    for path, word in ((tmp_path / "spaces.yaml", "no valid YAML"), (tmp_path / "gone.yaml", "cannot be read")):
        with pytest.raises(ManifestError, match=word):
            targets(path)


# ------------------------------------------------------------------------------------------------ the folder

def test_the_rendered_folder_holds_what_runs_and_nothing_else(space):
    files = {file.relative_to(space.folder).as_posix() for file in space.folder.rglob("*") if file.is_file()}
    assert space.files == len(files) and 2**20 < space.size < 100 * 2**20
    assert {"app.py", "README.md", "requirements.txt", "spaces.yaml", "fusion/ui/page.py", "fusion/ui/mixer.js"} <= files
    assert {"models/catalog.yaml", "assets/calibration/portraits.safetensors"} <= files
    assert "assets/models/portraits/harbor/unet/diffusion_pytorch_model.safetensors" in files
    assert not [f for f in files if f.startswith(("tests", "assets/models/portraits/harbor-lora")) or "__pycache__" in f]
    studies = {f"assets/studies/{name}/{name}.json" for name in ("evidence", "recommendation")}  # what the page recommends, how often right
    assert {f for f in files if f.startswith("assets/studies")} == studies
    assert not [file for file in space.folder.rglob("*") if file.is_symlink()]
    assert list(targets(space.folder / "spaces.yaml")) == ["cpu-demo"]


def test_nothing_of_the_packages_is_left_behind(space):
    """Data files of a kind that nobody has thought of yet included: a Space would miss them only when a visitor needs them."""
    listed = subprocess.run(["git", "ls-files", "fusion", "models"], cwd=REPOSITORY, capture_output=True, text=True)
    there = listed.stdout.split() or [
        file.relative_to(REPOSITORY).as_posix() for package in ("fusion", "models") for file in (REPOSITORY / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]  # fmt: skip  # an unpacked archive has no list
    assert "models/clip_merges.txt.gz" in there and not [name for name in there if not (space.folder / name).is_file()]


def test_the_readme_head_is_what_the_hub_reads(space):
    _, head, text = (space.folder / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(head)
    expected = {"sdk": "gradio", "sdk_version": pins()["gradio"], "python_version": "3.12", "app_file": "app.py", "license": "mit"}
    assert expected.items() <= head.items() and head["suggested_hardware"] == "cpu-basic" and "Harbor" in text


def test_requirements_are_our_pins_but_for_the_hardwares_own():
    lines = dict(line.split("==") for line in requirements(targets()["zerogpu"]).splitlines() if "==" in line)
    assert lines["diffusers"] == pins()["diffusers"] and lines["spaces"] == "0.51.3" and "torch" not in lines
    assert "torch>=2.8,<2.12" in requirements(targets()["zerogpu"]).splitlines()
    from packaging.specifiers import SpecifierSet

    spec = {line.partition(">")[0]: line for line in requirements(targets()["cpu-demo"]).splitlines()}["torch"]
    assert SpecifierSet(spec.removeprefix("torch")).contains(pins()["torch"])  # what our tests ran with
    old = SimpleNamespace(**{**vars(targets()["cpu-demo"]), "python_version": "3.10"})
    with pytest.raises(DeployError, match="3.10"):
        requirements(old)


def test_a_folder_that_is_not_empty_and_a_model_that_is_not_here_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(DeployError, match="not an empty folder"):
        render(targets()["cpu-demo"], tmp_path)
    with pytest.raises(DeployError, match="cannot be made"):
        render(targets()["cpu-demo"], tmp_path / "mine.txt" / "below")
    stranger = SimpleNamespace(**{**vars(targets()["cpu-demo"]), "models": ("portraits/gone",)})
    with pytest.raises(DeployError, match="portraits/gone"):
        render(stranger, tmp_path / "new")
    assert (tmp_path / "mine.txt").read_text() == "keep me"


START = """
import runpy, sys
folder = sys.argv[1]
sys.path[:] = [folder, *(p for p in sys.path if p and not p.startswith({root!r}) or "site-packages" in p)]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import app, fusion, models
print(app.__file__, fusion.__file__, models.__file__, flush=True)
app.main(["--port", sys.argv[2]])
"""


def test_the_rendered_space_starts_from_its_folder_alone(space):
    """In a process that can import nothing of this checkout, as a Space would start it."""
    port = processes.free_port()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"SPACE_ID": "owner/space", hosting.TARGET: "cpu-demo", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-P", "-c", START.format(root=str(REPOSITORY)), str(space.folder), str(port)],
                               cwd=space.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    try:
        page, deadline = None, time.monotonic() + 900
        while page is None and process.poll() is None and time.monotonic() < deadline:
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=300).read().decode()
            except OSError:
                time.sleep(0.2)
        assert page is not None, process.communicate()[0][-3000:] if process.poll() is not None else "it never answered"
        config = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=300))
        listening = open("/proc/net/tcp").read() if os.path.exists("/proc/net/tcp") else f"00000000:{port:04X}"
    finally:
        process.terminate()
        told = process.communicate(timeout=300)[0]
    assert all(place.startswith(str(space.folder)) for place in told.split("\n")[0].split()), told[:500]
    assert "ScoreFusion Studio" in page and "Harbor" in page and "12" in page  # the answer, painted before any click
    assert "harbor-lora" not in page and config["version"] == pins()["gradio"] and len(config["components"]) > 8
    assert f"00000000:{port:04X}" in listening  # all addresses: the hub's proxy comes from outside


# ------------------------------------------------------------------------------------------------ the hub

class Hub:
    """Stands for `HfApi`: writes down what it is asked."""

    def __init__(self, hardware="cpu-basic", fail=None):
        self.asked, self.hardware, self.fail = [], hardware, fail

    def __getattr__(self, name):
        def method(*args, **kwargs):
            self.asked.append((name, args, kwargs))
            if self.fail and self.fail[0] == name:
                raise self.fail[1]
            if name == "whoami":
                return {"name": "ada"}
            return SimpleNamespace(requested_hardware=self.hardware)

        return method

    def calls(self, name):
        return [(args, kwargs) for asked, args, kwargs in self.asked if asked == name]


def test_a_space_is_made_set_up_and_filled_in_that_order(tmp_path):
    hub, environment = Hub(), {"HF_TOKEN": "t", "SPACE_SECRET_HF_TOKEN": "value"}
    address = deploy(targets()["private"], tmp_path, environment=environment, api=hub)
    assert address.endswith("/spaces/ada/scorefusion-studio-private")
    (args, kwargs), = hub.calls("create_repo")
    assert args == ("ada/scorefusion-studio-private",)
    assert kwargs == {"repo_type": "space", "space_sdk": "gradio", "private": True, "exist_ok": True}
    assert [args[1:] for args, _ in hub.calls("add_space_variable")] == [(hosting.TARGET, "private")]
    assert [args[1:] for args, _ in hub.calls("add_space_secret")] == [("HF_TOKEN", "value")]
    (_, sent), = hub.calls("upload_folder")
    assert sent["folder_path"] == tmp_path and sent["repo_type"] == "space" and sent["delete_patterns"] == "*"
    assert [args for args, _ in hub.calls("request_space_hardware")] == [("ada/scorefusion-studio-private", "a10g-small")]
    order = [name for name, *_ in hub.asked]
    assert order.index("create_repo") < order.index("add_space_secret") < order.index("upload_folder")


def test_hardware_that_is_there_is_not_asked_for_again_and_owners_are_kept(tmp_path):
    hub = Hub("cpu-basic")
    deploy(targets()["cpu-demo"], tmp_path, environment={"HF_TOKEN": "t"}, api=hub, repository="club/page")
    assert not hub.calls("request_space_hardware") and not hub.calls("whoami") and hub.calls("create_repo")[0][0] == ("club/page",)
    assert dict(args[1:] for args, _ in hub.calls("add_space_variable")) == {"OMP_NUM_THREADS": "2", hosting.TARGET: "cpu-demo"}


@pytest.mark.parametrize("where, status, word", [
    ("whoami", 401, "write access"), ("create_repo", 403, "--repository"), ("request_space_hardware", 402, "payment"),
    ("upload_folder", 500, "answered 500"),
])  # fmt: skip
def test_the_hubs_refusals_are_sentences(tmp_path, where, status, word):
    error = HfHubHTTPError("no", response=httpx.Response(status, request=httpx.Request("GET", "https://hub")))
    with pytest.raises(DeployError, match=word):
        deploy(targets()["cpu-demo"], tmp_path, environment={"HF_TOKEN": "t"}, api=Hub("other", (where, error)))


def test_what_is_missing_is_said_before_anything_is_sent(tmp_path):
    for target, environment, word in (("cpu-demo", {}, "HF_TOKEN"), ("private", {"HF_TOKEN": "t"}, "SPACE_SECRET_HF_TOKEN")):
        hub = Hub()
        with pytest.raises(DeployError, match=word):
            deploy(targets()[target], tmp_path, environment=environment, api=hub)
        assert not hub.asked
    with pytest.raises(DeployError, match="cannot be reached"):
        deploy(targets()["cpu-demo"], tmp_path, environment={"HF_TOKEN": "t"}, api=Hub(fail=("create_repo", ConnectionError())))


def test_the_command_renders_without_sending(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["deploy", "zerogpu", "--dry-run", "--out", str(tmp_path / "s"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["hardware"] == "zero-a10g" and result["files"] > 100 and "token" not in str(result).lower()
    assert "spaces==0.51.3" in (tmp_path / "s" / "requirements.txt").read_text()
    assert main(["deploy", "elsewhere", "--dry-run"]) == 1 and "cpu-demo, zerogpu, private" in capsys.readouterr().err
    assert main(["deploy", "private"]) == 1 and "SPACE_SECRET_HF_TOKEN" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ limits

def test_ones_own_machine_has_no_limits(at):
    at(None)
    assert hosting.target() is None and hosting.limits() == Limits() and hosting.offered("any/model")
    hosting.check(models=[SimpleNamespace(id="any/model", title="Any")] * 99, images=10**6, steps=10**6, calibration=10**6)


def test_a_hosted_page_holds_visitors_to_its_limits(at):
    at("cpu-demo")
    cards = [catalog[name] for name in targets()["cpu-demo"].models]
    hosting.check(models=cards, images=48, looks=16, samples=8, steps=30, calibration=0)
    for amounts, word in (({"images": 49}, "48 target pictures"), ({"steps": 31}, "30 sampling steps"),
                          ({"calibration": 8}, "no calibration"), ({"models": cards * 2}, "at most 5 models"),
                          ({"models": [catalog["portraits/base"]]}, "Base")):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            hosting.check(**amounts)
    from fusion.ui import engine

    assert set(engine.cards()) == set(targets()["cpu-demo"].models)
    job = SimpleNamespace(loading=None)
    with pytest.raises(ValueError, match="48 target pictures"):
        engine.fit(cards[:2], [None] * 49, [""] * 49, levels=8, draws=1, job=job)


def test_a_rendered_space_knows_its_target_without_being_told(at, space, monkeypatch):
    """Its folder may have been pushed by hand, without the variable."""
    at(None)
    monkeypatch.setenv("SPACE_ID", "owner/space")
    monkeypatch.setattr(hosting, "FILE", space.folder / "spaces.yaml")
    assert hosting.target().name == "cpu-demo" and hosting.limits().images == 48 and hosting.hosted()


def test_an_unknown_target_is_said(at):
    at("elsewhere")
    with pytest.raises(ManifestError, match="elsewhere"):
        hosting.target()


def test_the_time_asked_of_a_gpu_grows_with_models_steps_and_images(at):
    at("zerogpu")
    pace, most = targets()["zerogpu"].pace, targets()["zerogpu"].limits.seconds
    assert hosting.seconds(0) == max(hosting.SHORTEST, int(np.ceil(pace["load"])))
    at_once = [hosting.seconds(k * 20 * 16, 16) for k in (2, 4, 7)]
    assert at_once == sorted(at_once) and at_once[0] == int(np.ceil(pace["load"] + 2 * 20 * 16 * pace["evaluation"] + 16 * pace["image"]))
    with pytest.raises(ValueError, match=f"gives {most}"):
        hosting.seconds(10**6)


# ------------------------------------------------------------------------------------------------ a GPU that is lent

def forked(task, arguments, seconds):
    """What `spaces.GPU` makes of `_events`: a forked process, everything pickled on the way, stopped when nobody listens."""
    context = multiprocessing.get_context("fork")
    events, stop = context.SimpleQueue(), context.Event()

    def work():
        own = hosting._events(task, arguments, seconds)
        for event in own:
            if stop.is_set():
                own.close()
                break
            events.put(event)
        events.put(None)

    asked.append(seconds)
    process = context.Process(target=work)
    process.start()
    try:
        while (event := events.get()) is not None:
            yield event
    finally:
        stop.set()
        process.join(60)


asked = []


@pytest.fixture
def lent(at, monkeypatch):
    at("zerogpu")
    asked.clear()
    monkeypatch.setattr(hosting, "spaces", object())
    monkeypatch.setattr(hosting, "_on_gpu", forked)


class Heard:
    """A job that writes down what it hears; `stop_at`: stopped after so many reports."""

    def __init__(self, stop_at=10**9):
        self.heard, self.stop_at = [], stop_at

    def report(self, *words):
        self.heard.append(words)

    loading = report

    def enter(self, stage):
        self.heard.append(stage)

    def stopped(self):
        return len(self.heard) >= self.stop_at


def countdown(count, *, job):
    job.enter("counting")
    for n in range(count):
        if job.stopped():
            return
        job.report(n, count, f"{os.getpid()}")
        yield n, hosting.device()
        time.sleep(0.01)


def total(numbers, *, job):
    job.report(1, 1)
    if not numbers:
        raise MethodError("nothing to add: give numbers")  # a sentence of ours, wherever it is raised
    return sum(numbers)


def broken(*, job):
    raise RuntimeError("CUDA error")


def test_lent_work_runs_elsewhere_and_tells_of_itself(lent):
    job = Heard()
    found = list(hosting.stream(countdown, 5, job=job, seconds=33))
    assert found == [(n, "auto") for n in range(5)] and hosting.device() == "cpu" and asked == [33]
    assert job.heard[0] == "counting" and len(job.heard) == 6 and job.heard[1][2] != str(os.getpid())
    assert hosting.call(total, [1, 2], job=Heard()) == 3
    with pytest.raises(ValueError, match="give numbers"):
        hosting.call(total, [], job=Heard())
    with pytest.raises(RuntimeError, match="CUDA error"):
        hosting.call(broken, job=Heard())


def test_lent_work_is_stopped(lent):
    found = list(hosting.stream(countdown, 3000, job=Heard(stop_at=3)))
    assert 1 <= len(found) <= 3
    with pytest.raises(Interrupted):
        hosting.call(total, [1], job=Heard(stop_at=1))


def test_a_fit_and_its_images_come_back_from_a_lent_gpu(lent, monkeypatch):
    """With the shipped models: only the statistic and the finished pictures cross."""
    from fusion.ui import draw, engine
    from fusion.ui.state import Plan

    cards = [catalog[f"portraits/{name}"] for name in ("harbor", "summit")]
    pictures = engine.open_images(sorted((REPOSITORY / "assets/targets/valley/fit").glob("*.png"))[:2])
    job = Heard()
    result = engine.fit(cards, pictures, ["a portrait of a cook"] * 2, levels=2, draws=1, job=job)
    assert result.gram.plain.shape == (2, 2, 2, 2) and "fitting" in job.heard and engine.loaded(cards) is None
    plan = Plan(prompts=("a portrait of a cook",), count=2, steps=2)
    samples = list(draw.samples(cards, result, "uniform", plan, None, job=job))
    assert [one.seed for one in samples] == [0, 1] and samples[0].image.size == (64, 64) and len(asked) == 2
    monkeypatch.setattr(hosting, "spaces", None)
    here = engine.fit(cards, pictures, ["a portrait of a cook"] * 2, levels=2, draws=1, job=Heard())
    np.testing.assert_allclose(result.gram.plain, here.gram.plain, rtol=1e-6)
