"""The training loop: repeatable, stoppable within a step, keeping the best, going on from a checkpoint as if never interrupted."""

import pytest
import torch

from fusion.transfer.training import Loss, Schedule, train


def problem(seed=0):
    """A quadratic with noisy gradients: parameter, loss, held-out loss."""
    weight = torch.nn.Parameter(torch.full((3,), 4.0))

    def loss(generator):
        return (weight - 1 + 0.1 * torch.randn(3, generator=generator)).square().mean()

    return weight, loss, lambda: float((weight - 1).square().mean())


SCHEDULE = Schedule(steps=60, rate=0.2, every=5, patience=None, warmup=3, average_over=3)


def test_the_loss_falls_and_the_best_average_is_kept():
    weight, loss, held_out = problem()
    course = train({"w": weight}, loss, SCHEDULE, held_out=held_out)
    losses = dict(course.curve)
    assert course.steps == 60 and losses[0] == 9.0 and held_out() < 0.02
    assert held_out() == pytest.approx(min(losses.values()), abs=1e-7) == losses[course.best] and course.gain > 8.9


def test_no_steps_change_nothing():
    weight, loss, held_out = problem()
    course = train({"w": weight}, loss, Schedule(steps=0), held_out=held_out)
    assert torch.equal(weight, torch.full((3,), 4.0)) and course.best == course.steps == 0 and course.curve == ((0, 9.0),)


def test_a_run_repeats_and_another_seed_differs():
    found = []
    for seed in (0, 0, 1):
        weight, loss, held_out = problem()
        train({"w": weight}, loss, Schedule(**{**vars(SCHEDULE), "seed": seed}), held_out=held_out)
        found.append(weight.detach().clone())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_early_stopping_returns_to_the_best_look():
    """The held-out optimum is passed on the way: training goes on to 1, the held-out loss wants 3."""
    weight, loss, _ = problem()
    course = train({"w": weight}, loss, Schedule(steps=200, rate=0.05, every=5, patience=3, warmup=1, average_over=1),
                   held_out=lambda: float((weight - 3).square().mean()))  # fmt: skip
    looks = [step for step, _ in course.curve]
    assert course.steps < 200 and len([s for s in looks if s > course.best]) == 3
    assert (weight - 3).abs().max() < 0.3


def test_stop_ends_before_the_next_step_and_keeps_what_was_best():
    weight, loss, held_out = problem()
    made, asked = [], []
    course = train({"w": weight}, lambda g: (made.append(1), loss(g))[1], SCHEDULE, held_out=held_out,
                   stop=lambda: (asked.append(1), len(asked) > 7)[1], progress=lambda done, total, message: None)  # fmt: skip
    assert course.stopped and course.steps == len(made) == 7 and course.best == 5
    assert held_out() == pytest.approx(dict(course.curve)[5], abs=1e-7)


def test_a_broken_run_goes_on_from_its_checkpoint_as_if_nothing_had_happened(tmp_path):
    file, whole = tmp_path / "run.safetensors", problem()
    expected = train({"w": whole[0]}, whole[1], SCHEDULE, held_out=whole[2])
    first, asked = problem(), []
    train({"w": first[0]}, first[1], SCHEDULE, held_out=first[2], checkpoint=file, stop=lambda: (asked.append(1), len(asked) > 33)[1])
    second = problem()
    course = train({"w": second[0]}, second[1], SCHEDULE, held_out=second[2], checkpoint=file)
    assert course.curve == expected.curve and course.best == expected.best
    assert torch.equal(second[0], whole[0])
    other = Schedule(**{**vars(SCHEDULE), "rate": 0.1})
    with pytest.raises(ValueError, match="another training"):
        train({"w": problem()[0]}, second[1], other, held_out=second[2], checkpoint=file)


def test_a_loss_that_is_not_finite_is_refused():
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(FloatingPointError, match="step 1"):
        train({"w": weight}, lambda g: (weight / 0).sum(), SCHEDULE)


# ------------------------------------------------------------------------------------------------ memory

def in_rows(room=13):
    """Parameters of a small network in double precision, a loss over 13 rows, and how many rows were taken at once. More than `room`
    end half-way through the backward pass, when the last layer has had its gradient."""
    torch.manual_seed(5)
    first, last = torch.nn.Linear(4, 8).double(), torch.nn.Linear(8, 1).double()
    taken = []

    def full(_gradient):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def loss(generator):
        x = torch.randn(13, 4, generator=generator, dtype=torch.float64)

        def errors(part):
            taken.append(len(x[part]))
            hidden = first(x[part]).tanh()
            if len(hidden) > room:
                hidden.register_hook(full)
            return (last(hidden)[:, 0] - x[part].sum(1)).square()

        return Loss(13, errors)

    return {"w": first.weight, "v": last.weight}, loss, taken


def test_a_batch_in_parts_has_the_gradient_of_the_whole():
    schedule = Schedule(steps=6, rate=0.05, patience=None, warmup=1)
    (whole, loss, once), (parts, partly, taken) = in_rows(), in_rows(room=4)
    train(whole, loss, schedule)
    train(parts, partly, schedule)
    assert set(once) == {13} and taken[:3] == [13, 7, 4] and max(taken[3:]) == 4 and sum(taken[2:]) == 6 * 13
    for name, p in whole.items():
        torch.testing.assert_close(parts[name], p, rtol=1e-9, atol=1e-12)


def test_relief_is_tried_once_before_batches_shrink():
    tried = []
    parameters, loss, taken = in_rows(room=7)
    train(parameters, loss, Schedule(steps=2, patience=None), relief=lambda: tried.append(1) is None)
    assert tried == [1] and taken[:4] == [13, 13, 7, 6]


def test_one_row_that_is_too_much_ends_the_training():
    parameters, loss, _ = in_rows(room=0)
    with pytest.raises(torch.OutOfMemoryError):
        train(parameters, loss, Schedule(steps=1), relief=lambda: False)


def test_several_losses_count_alike():
    """However many rows each of them has."""
    rows, found = torch.arange(1.0, 6.0, dtype=torch.float64), []
    for apart in (True, False):
        w = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        losses = [Loss(n, lambda part, w=w: (w[0] * rows[part] - w[1]).square()) for n in (5, 2)]
        mean = lambda losses=losses: sum(one.errors(slice(0, one.rows)).mean() for one in losses) / 2
        train({"w": w}, lambda _, apart=apart, losses=losses, mean=mean: losses if apart else mean(), Schedule(steps=3, patience=None))
        found.append(w.detach().clone())
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
    assert not torch.equal(found[0], torch.tensor([1.0, 2.0], dtype=torch.float64))
