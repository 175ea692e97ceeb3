"""Several processes give one process's statistic and images; killed runs go on; what is new is computed, what is known is not."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path as File

import numpy as np
import pytest
import torch

from fusion import parallel, processes
from fusion.calibration import calibrate
from fusion.cli import main
from fusion.commands.diary import Diary
from fusion.gram import ResidualGram
from fusion.kept import Kept, identities
from fusion.memory import halving, out_of_memory
from fusion.methods.drawing import by_pipeline, draw
from fusion.methods.plan import Part, SamplingPlan
from fusion.objective import fit_gram, picture_seeds, residual_gram
from fusion.parallel import Team, pack, unpack
from fusion.recipe import Recipe
from models.loading import load_ensemble
from tests.fusion import small
from tests.fusion.world import Path

EDGES = torch.linspace(-4, 6, 6, dtype=torch.float64)
COUNT, LEVELS = 5, 4
EVALUATIONS = 3 * COUNT * LEVELS * 2


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder, small.cards(folder)


@pytest.fixture(scope="module")
def ensemble(models):
    return load_ensemble(models[1], device="cpu")


def fitted(ensemble, images=None, **more):
    images = small.pictures(COUNT) if images is None else images
    return fit_gram(ensemble, images, [small.PROMPTS[i % 3] for i in range(len(images))], levels=LEVELS, batch_size=8, **more)


@pytest.fixture(scope="module")
def alone(ensemble):
    return fitted(ensemble, seeds="picture")


def same(gram, plain, smooth, rtol=1e-12):
    np.testing.assert_allclose(plain, gram.plain, rtol=rtol, atol=1e-14)
    np.testing.assert_allclose(smooth, gram.smooth, rtol=rtol, atol=1e-12)


# ------------------------------------------------------------------------------------------------ the team

def errand(team):
    own = [f"{team.rank}{'x' * 50 * team.rank}{i}".encode() for i in range(3 - team.rank)]
    sums = team.total(np.full((2, 2), team.rank + 0.5), np.arange(3))
    told = b"|".join(team.in_turn(iter(own)))
    parts = b"|".join(team.gather(own[0] if own else b""))
    return {"sum": sums[0], "sum2": sums[1], "most": team.most(10 * team.rank), "told": np.frombuffer(told, np.uint8),
            "parts": np.frombuffer(parts, np.uint8), "nothing": np.frombuffer(b"".join(team.gather(b"")), np.uint8)}  # fmt: skip


def test_processes_add_and_tell_each_other(tmp_path):
    found = processes.run(3, errand, tmp_path)
    first, second = b"1" + b"x" * 50, b"2" + b"x" * 100
    for one in found:
        assert (one["sum"] == 4.5).all() and one["sum2"].tolist() == [0, 3, 6] and one["most"] == 20 and not len(one["nothing"])
        assert one["told"].tobytes() == b"|".join([b"00", first + b"0", second + b"0", b"01", first + b"1", b"02"])
        assert one["parts"].tobytes() == b"|".join([b"00", first + b"0", second + b"0"])


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_everything_is_somebodys_and_only_once(size):
    lists = [list(range(at, at + n)) for at, n in ((0, 4), (4, 1), (5, 0), (5, 7))]
    shares = [[thing for own in lists for thing in Team(rank, size).mine(own, after=own[0] if own else 0)] for rank in range(size)]
    assert sorted(sum(shares, [])) == list(range(12)) and max(map(len, shares)) - min(map(len, shares)) <= 1
    plan, part = SamplingPlan(["a"], range(12), batch_size=2), []
    for rank in range(size):
        own = plan.with_(part=Part(rank, size, first=1))
        part += own.batches(plan.jobs[:5]) + own.after(5).batches(plan.jobs[5:])
    assert sorted(job[1] for batch in part for job in batch) == list(range(2, 12))  # without the first batch, which was drawn before


def test_pieces_of_bytes_survive_packing():
    for parts in ([], [b""], [b"a", b"", b"\n\x00" * 1000]):
        assert unpack(pack(parts)) == parts
    assert pack([]) == b""


def test_who_we_are_is_read_from_the_environment(monkeypatch):
    assert parallel.started() == (0, 1) and parallel.join() is parallel.ALONE and not parallel.lonely()
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert parallel.started() == (3, 4)
    with pytest.raises(ValueError, match="cannot share --device cuda:1"):
        parallel.join("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    with pytest.raises(ValueError, match="as many processes as GPUs"):
        parallel.join()


def test_a_command_for_one_process_refuses_several_and_only_the_first_speaks(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, who in (("0", "error: "), ("1", "process 2 of 2: error: ")):
        monkeypatch.setenv("RANK", rank)
        assert main(["compare", "--models", "a", "b", "--target", "c"]) == 1
        assert capsys.readouterr().err == f"{who}compare runs in one process: start it without accelerate launch\n"
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert main(["sample"]) == 1 and "only with --multi_gpu" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ the statistic

def predict(x_t, level):
    gate = torch.sigmoid(level).reshape(-1, 1, 1)
    return torch.stack([gate * x_t, torch.tanh(x_t), 0.3 * x_t + 0.1 * torch.sin(3 * x_t)])


def measured(team, x0, batch_size, limits):
    asked = []
    stop = lambda: len(asked) >= limits[team.rank]
    gram = residual_gram(lambda x, level: asked.append(1) or predict(x, level), x0, Path(), EDGES, team=team, batch_size=batch_size,
                         generator=torch.Generator().manual_seed(0), groups=[0, 0, 1, 0, 1, 0, 1], stop=stop)  # fmt: skip
    return {"plain": gram.plain, "smooth": gram.smooth, "levels": gram.levels, "evaluations": gram.evaluations}


def test_any_number_of_processes_gives_one_processs_statistic(tmp_path):
    x0 = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    never = [10**9] * 3
    one = measured(parallel.ALONE, x0, 8, never)
    for size in (2, 3):
        for other in processes.run(size, measured, tmp_path, x0=x0, batch_size=8, limits=never):
            for name in one:
                np.testing.assert_allclose(other[name], one[name], rtol=1e-12, atol=1e-14)


def test_a_stopped_team_keeps_the_images_that_all_finished(tmp_path):
    """The second of two stops after three of its batches of 5 copies: images of 10 copies are finished up to batch 6."""
    x0 = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    never = measured(parallel.ALONE, x0, 5, [10**9])
    for other in processes.run(2, measured, tmp_path, x0=x0, batch_size=5, limits=[10**9, 3]):
        assert len(other["plain"]) == 3 and other["evaluations"] == 3 * 5 * (7 + 3)
        np.testing.assert_allclose(other["plain"], never["plain"][:3], rtol=1e-12, atol=1e-14)
        assert np.isfinite(other["smooth"]).all()
    before_anything = processes.run(2, measured, tmp_path, x0=x0, batch_size=5, limits=[0, 0])
    assert before_anything == [None, None]  # RuntimeError: nothing was measured


def test_a_team_fits_real_pipelines_alike(ensemble, alone, tmp_path):
    def work(team):
        gram = fitted(ensemble, seeds="picture", team=team)
        return {"plain": gram.plain, "smooth": gram.smooth}

    for other in processes.run(2, work, tmp_path):
        same(alone, **other)


def test_draws_by_picture_follow_the_picture():
    pictures = small.pictures(3)
    seeds = picture_seeds(pictures, 0)
    assert picture_seeds([pictures[2], pictures[0]], 0) == [seeds[2], seeds[0]] and picture_seeds(pictures, 1) != seeds
    twice = picture_seeds([pictures[0], pictures[0]], 0)
    assert twice[0] == seeds[0] and twice[1] != twice[0] and all(0 <= seed < 2**62 for seed in seeds)


def test_a_team_calibrates_alike(ensemble, tmp_path):
    settings = dict(samples=18, prompts=["a cat"], levels=2)
    member, kept = ensemble.subset([1]), tmp_path / "kept"
    one = calibrate(member, **settings, kept=Kept(kept))
    work = lambda team: {"products": calibrate(member, **settings, team=team).products}
    for other in processes.run(2, work, tmp_path):
        np.testing.assert_allclose(other["products"], one.products, rtol=1e-6)  # kept in float32
    again = Kept(kept)
    np.testing.assert_array_equal(calibrate(member, **settings, kept=again).products, one.products)
    assert again.asked == 0 and again.found == 18 * 2 * 2 and len(list(kept.rglob("*.png"))) == 18


# ------------------------------------------------------------------------------------------------ killed, and going on

def test_a_killed_fit_goes_on(ensemble, alone, tmp_path):
    """Both processes are killed without warning half-way; three others finish, asking only for what was not on disk."""

    def killed(team):
        kept, batches = Kept(tmp_path / "work", seconds=0), []
        put = Kept.put

        def die_after_some(self, *args):
            put(self, *args)
            batches.append(1)
            if len(batches) > 7:
                os.kill(os.getpid(), signal.SIGKILL)

        Kept.put = die_after_some
        return {"plain": fitted(ensemble, seeds="picture", kept=kept, team=team).plain}

    def resumed(team):
        kept = Kept(tmp_path / "work")
        gram = fitted(ensemble, seeds="picture", kept=kept, team=team)
        return {"plain": gram.plain, "smooth": gram.smooth, "asked": kept.asked, "found": kept.found}

    assert processes.run(2, killed, tmp_path) == [None, None]
    found = processes.run(3, resumed, tmp_path)
    known = int(sum(one["found"] for one in found))
    assert EVALUATIONS // 4 < known < EVALUATIONS and sum(one.pop("asked") + one.pop("found") for one in found) == EVALUATIONS
    for one in found:
        same(alone, **one)


def test_only_what_is_new_is_asked(ensemble, alone, tmp_path):
    def again(members, images=None):
        kept = Kept(tmp_path)
        return fitted(members, images, seeds="picture", kept=kept), kept

    two, kept = again(ensemble.subset([0, 2]))
    assert (kept.asked, kept.found) == (EVALUATIONS * 2 // 3, 0)
    all_, kept = again(ensemble)
    assert (kept.asked, kept.found) == (EVALUATIONS // 3, EVALUATIONS * 2 // 3)
    same(alone, all_.plain, all_.smooth)
    np.testing.assert_allclose(two.plain, alone.plain[..., [0, 2], :][..., [0, 2]], rtol=1e-12)
    pictures = small.pictures(COUNT)
    more, kept = again(ensemble, [*pictures[:3], *small.pictures(3, 77), *pictures[3:]])  # three: the others keep their prompts
    assert (kept.asked, kept.found) == (3 * 3 * LEVELS * 2, EVALUATIONS)
    np.testing.assert_allclose(more.plain[[0, 1, 2, 6, 7]], alone.plain, rtol=1e-12)
    same(fitted(ensemble, [*pictures[:3], *small.pictures(3, 77), *pictures[3:]], seeds="picture"), more.plain, more.smooth, rtol=1e-4)


def test_what_changed_is_asked_again_and_damage_is_repaired(ensemble, alone, tmp_path, caplog):
    kept = Kept(tmp_path, seconds=1e9)
    fitted(ensemble, seeds="picture", kept=kept)
    names = identities(ensemble)
    files = sorted((tmp_path / names[0]).glob("*"))
    assert len(set(names)) == 3 and len(files) == 1 and kept.size() > 4 * 1024 * EVALUATIONS
    changed = copy.deepcopy(ensemble.members[0].network)
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-3
    member = type(ensemble.members[0])(**{**vars(ensemble.members[0]), "network": changed})
    assert identities(type(ensemble)((member, *ensemble.members[1:]), ensemble.family, ensemble.size))[1:] == names[1:]
    assert identities(type(ensemble)((member,), ensemble.family, ensemble.size)) != names[:1]
    files[0].write_bytes(files[0].read_bytes()[:-9])
    again = Kept(tmp_path)
    gram = fitted(ensemble, seeds="picture", kept=again)
    assert (again.asked, again.found) == (EVALUATIONS // 3, EVALUATIONS * 2 // 3) and "cannot be read" in caplog.text
    same(alone, gram.plain, gram.smooth)


def test_an_adapter_is_known_in_any_company(sd_cards):
    first = identities(load_ensemble([sd_cards["base"], sd_cards["lora"]], device="cpu", lora="switch"))
    more = load_ensemble([sd_cards["base"], sd_cards["lora2"], sd_cards["lora"], sd_cards["second"]], device="cpu", lora="switch")
    names = identities(more)
    assert len(set(names)) == 4 and [names[0], names[2]] == first
    more.members[2].network.peft_config[more.members[2].adapter].lora_alpha *= 2
    assert identities(more)[2] != names[2] and identities(more)[1] == names[1]


def test_a_full_disk_is_said(tmp_path):
    (tmp_path / "work").write_text("a file where a folder should be")
    kept = Kept(tmp_path / "work")
    kept.put("shelf", {"key": np.zeros(3)})
    with pytest.raises(OSError):
        kept.flush()


# ------------------------------------------------------------------------------------------------ images

def drawn(ensemble, folder, team=parallel.ALONE, die=None, count=11):
    """What `sample` does, with batches of 2; `die`: after so many batches of our own."""
    from fusion.commands.diary import batches, received, sent
    from fusion.methods import METHODS

    plan = SamplingPlan(["a cat"], range(count), steps=1, weights=np.array([0.5, 0.2, 0.3]), batch_size=2)
    folder.mkdir(exist_ok=True)
    diary, own = Diary.of(folder, ensemble, "mixture", plan, None), 0
    plan = plan.with_(part=Part(team.rank, team.size, first=diary.batches))
    for piece in team.in_turn(sent(batch) for batch in batches(METHODS["mixture"].run(ensemble, None, plan), ensemble, plan)):
        if team.first:
            diary.write(received(piece))
        own += 1
        if own == die:
            os.kill(os.getpid(), signal.SIGKILL)
    return {"first": plan.part.first, "seen": diary.seen}


def test_images_are_the_same_from_any_number_of_processes_and_after_a_kill(ensemble, tmp_path):
    drawn(ensemble, tmp_path / "one")
    expected = {file.name: file.read_bytes() for file in (tmp_path / "one").glob("*.png")}
    assert len(expected) == 11
    assert processes.run(2, lambda team: drawn(ensemble, tmp_path / "two", team, die=3), tmp_path) == [None, None]
    found = processes.run(3, lambda team: drawn(ensemble, tmp_path / "two", team), tmp_path)
    assert found[0]["first"] >= 2 and found[0]["seen"] == 11
    assert {file.name: file.read_bytes() for file in (tmp_path / "two").glob("*.png")} == expected


def test_a_diary_of_other_images_is_not_gone_on_with(ensemble, tmp_path):
    drawn(ensemble, tmp_path, count=5)
    plan = SamplingPlan(["a cat"], range(5), steps=1, weights=np.array([0.5, 0.2, 0.3]), batch_size=2)
    assert Diary.of(tmp_path, ensemble, "mixture", plan, None).seen == 5
    assert Diary.of(tmp_path, ensemble, "mixture", plan.with_(steps=2), None).seen == 0
    next(tmp_path.glob("*.png")).unlink()
    assert Diary.of(tmp_path, ensemble, "mixture", plan, None).seen == 0
    (tmp_path / ".unfinished.json").write_text('["not", "ours"]')
    assert Diary.of(tmp_path, ensemble, "mixture", plan, None).seen == 0


# ------------------------------------------------------------------------------------------------ memory

def test_batches_are_halved_where_memory_runs_out():
    sizes, x = [], torch.arange(13.0)[:, None]

    def greedy(x_t, level, index):
        sizes.append(len(x_t))
        if len(x_t) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return torch.stack([x_t, 2 * x_t])

    careful = halving(greedy)
    for _ in range(2):
        assert torch.equal(careful(x, x[:, 0], x[:, 0]), torch.stack([x, 2 * x]))
    assert sizes[:3] == [13, 7, 4] and max(sizes[3:]) == 2  # what fitted is remembered
    with pytest.raises(RuntimeError, match="not enough memory"):
        halving(lambda *_: (_ for _ in ()).throw(RuntimeError("[enforce fail] not enough memory: you tried to allocate")))(x, x, x)
    assert not out_of_memory(RuntimeError("shapes do not match")) and out_of_memory(MemoryError())


def test_images_that_memory_has_no_room_for_are_drawn_in_halves(ensemble):
    sizes = []

    def greedy(ensemble, plan, weights, batch, advance):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return by_pipeline(ensemble, plan, weights, batch, advance)

    plan = SamplingPlan(["a cat"], range(5), steps=1, batch_size=4)
    samples = list(draw(ensemble, plan, np.ones(3) / 3, method="uniform", images=greedy))
    assert sizes == [4, 2, 2, 1] and [one.seed for one in samples] == [0, 1, 2, 3, 4]
    assert [(len(one.batch), one.place, one.before) for one in samples] == [(2, 0, 0), (2, 1, 0), (2, 0, 2), (2, 1, 2), (1, 0, 0)]
    assert Recipe.of_sample(ensemble, samples[3], plan).seeds == (2, 3)


# ------------------------------------------------------------------------------------------------ accelerate launch

def test_accelerate_launches_two_processes_that_give_ones_result(models, tmp_path):
    folder, cards = models
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(small.pictures(3)):
        picture.save(tmp_path / "pictures" / f"{number}.png")
    root = File(__file__).resolve().parents[2]
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2",
              "--main_process_port", str(processes.free_port())]  # fmt: skip
    sources, out = [card.source for card in cards[:2]], tmp_path / "two.json"
    fit = ["-m", "fusion", "fit", "--models", *sources, "--images", str(tmp_path / "pictures"), "--caption", "a cat", "--levels", "2",
           "--gram", str(out.with_suffix(".safetensors")), "--out", str(out), "--device", "cpu"]  # fmt: skip
    command = [sys.executable, *launch, *fit, "--json"]
    env = os.environ | {"SCOREFUSION_MODELS": str(folder), "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)  # one process speaks
    assert result["images"] == 3 and result["asked"] == 2 * 3 * 2 * 2 and result["kept"] == 0 and (tmp_path / "two.work").is_dir()
    one = fit_gram(load_ensemble(cards[:2], device="cpu"), small.pictures(3), "a cat", levels=2, seeds="picture")
    two = ResidualGram.load(tmp_path / "two.safetensors")
    same(one, two.plain, two.smooth)
