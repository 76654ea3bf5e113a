"""Which worker does what next."""

import pytest

from cnn_jax.execution.queue import Queue, Task, devices_per_program
from cnn_jax.trial import ModelConfig, TrainConfig, Trial

TRAIN = TrainConfig(epochs=1)


def sweep(*filters: int, seeds: int = 3) -> list[Trial]:
    return [Trial(ModelConfig(filters=(f,)), train=TRAIN, seed=s) for f in filters for s in range(seeds)]


def cost(trial: Trial) -> float:
    assert trial.model.filters is not None
    return float(trial.model.filters[0])


def drain(queue: Queue, worker: tuple | None = None) -> list[Task]:
    tasks = []
    while task := queue.next(worker):
        worker = task.trials[0].static
        tasks.append(task)
    return tasks


def test_every_missing_trial_is_given_out_once() -> None:
    planned = sweep(8, 16, 32)
    missing = planned[1:]
    queue = Queue(planned, missing, cost, most_lanes=1)
    assert len(queue) == 8
    given = [trial for task in drain(queue) for trial in task.trials]
    assert sorted(given, key=repr) == sorted(missing, key=repr)
    assert len(queue) == 0


def test_a_worker_stays_with_its_bucket_and_begins_with_the_costliest() -> None:
    planned = sweep(8, 32, 16)
    assert [cost(task.trials[0]) for task in drain(Queue(planned, planned, cost, 1))] == [32] * 3 + [16] * 3 + [8] * 3


def test_two_workers_compile_no_program_twice_while_there_are_others() -> None:
    planned = sweep(8, 32, 16)
    queue = Queue(planned, planned, cost, 1)
    first, second = queue.next(None), queue.next(None)
    assert first
    assert second
    assert first.trials[0].static != second.trials[0].static


def test_help_comes_only_where_it_pays() -> None:
    planned = sweep(8, seeds=4)
    queue = Queue(planned, planned, cost, 1)
    mine = queue.next(None)
    assert mine
    queue.measured(mine.trials[0].static, task_seconds=0.1, compile_seconds=1.0)
    assert queue.next(None) is None  # three trials of 0.1 s: sooner done by the one that has the program
    queue.measured(mine.trials[0].static, task_seconds=10.0, compile_seconds=0.0)
    assert queue.next(None) is not None


def test_lanes_follow_from_the_plan_not_from_what_is_missing() -> None:
    planned = sweep(8, seeds=10)
    tasks = drain(Queue(planned, planned[:1] + planned[6:], cost, most_lanes=4))
    assert [(len(task.trials), task.lanes) for task in tasks] == [(4, 4), (1, 4)]
    assert drain(Queue(planned[:2], planned[:2], cost, 4))[0].lanes == 2


def test_what_is_given_back_is_given_out_again() -> None:
    planned = sweep(8)
    queue = Queue(planned, planned, cost, 1)
    task = queue.next(None)
    assert task
    drain(queue, task.trials[0].static)
    queue.requeue(task)
    assert queue.next(("another",)) == task


@pytest.mark.parametrize(
    ("devices", "programs", "trials", "share"),
    [(1, 1, 64, 1), (8, 1, 64, 8), (8, 2, 64, 4), (8, 3, 64, 2), (8, 8, 64, 1), (8, 36, 3, 1), (8, 1, 3, 2), (6, 2, 9, 3)],
)
def test_devices_divide_the_lanes_of_a_program_if_there_are_too_few_programs(
    devices: int, programs: int, trials: int, share: int
) -> None:
    assert devices_per_program(devices, programs, trials) == share


def test_all_devices_are_used_by_eight_cells_and_by_64_seeds_of_one() -> None:
    planned = sweep(*range(1, 9), seeds=1)
    queue = Queue(planned, planned, cost, most_lanes=16)
    queue.spread(parallel=8, devices=1)
    assert [(len(task.trials), task.lanes) for task in drain(queue)] == [(1, 1)] * 8
    planned = sweep(8, seeds=64)
    queue = Queue(planned, planned, cost, most_lanes=16)
    queue.spread(parallel=1, devices=8)
    assert [(len(task.trials), task.lanes) for task in drain(queue)] == [(64, 64)]
    queue = Queue(planned, planned, cost, most_lanes=16)
    queue.spread(parallel=8, devices=1)  # of workers whose devices divide nothing
    assert [(len(task.trials), task.lanes) for task in drain(queue)] == [(8, 8)] * 8


def test_a_program_of_several_devices_that_does_not_fit_keeps_a_lane_on_each() -> None:
    planned = sweep(8, seeds=20)
    queue = Queue(planned, planned, cost, most_lanes=4)
    queue.spread(parallel=1, devices=4)
    sizes = []
    while sizes[-1:] != [4]:
        task = queue.next(None)
        assert task
        sizes.append(task.lanes)
        queue.too_large(task)
    assert sizes == [16, 8, 4]
    assert sorted(trial.seed for task in drain(queue) for trial in task.trials) == list(range(20))


def test_lanes_work_on_no_more_than_the_device_asks_for() -> None:
    planned = sweep(1, 8, 64, seeds=64)
    queue = Queue(planned, planned, cost, most_lanes=16, lane_bytes=lambda trial: int(cost(trial)) << 20)
    queue.spread(parallel=1, devices=1, lane_bytes=32 << 20)
    found = {(cost(task.trials[0]), task.lanes) for task in drain(queue)}
    assert found == {(1, 16), (8, 4), (64, 1)}
