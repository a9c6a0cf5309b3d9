"""A run that is killed and resumed from its last checkpoint ends as if it had not been, to the last bit."""

from signal import SIGKILL

import pytest
import torch
from safetensors.torch import load_file

from .distributed import jobs
from .distributed.ranks import launch, run

# Where the process ends: a hook, and after how many optimizer steps of 3 epochs of 3 steps.
KILLS = [
    ("on_before_optimizer_step", 1),  # within a step of the first epoch
    ("on_train_batch_start", 5),  # between two steps
    ("on_validation_start", 3),  # at the end of an epoch, before its validation
    ("on_train_epoch_end", 6),  # and after it
    ("on_validation_start", 9),  # the last step is done
]


@pytest.fixture(scope="module", params=["step", "epoch"])
def whole(request, tmp_path_factory):
    """An uninterrupted run, whose scheduler steps after steps or after epochs."""
    folder = tmp_path_factory.mktemp(request.param)
    return {"interval": request.param, "result": run(jobs.long_run, folder, ranks=1, interval=request.param)[0]}


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: f"{kill[0]} {kill[1]}")
def test_resumed_equals_uninterrupted(whole, kill, tmp_path):
    interval = whole["interval"]
    assert launch(jobs.long_run, tmp_path, ranks=1, interval=interval, kill=kill).codes == [-SIGKILL]
    (result,) = run(jobs.long_run, tmp_path, ranks=1, interval=interval, resume=str(tmp_path / "last.ckpt"))
    assert result["steps"] == whole["result"]["steps"] == jobs.STEPS
    for kind in ("weights", "average"):
        torch.testing.assert_close(result[kind], whole["result"][kind], rtol=0, atol=0)


def test_the_same_seed_gives_the_same_bits(whole, tmp_path):
    (again,) = run(jobs.long_run, tmp_path, ranks=1, interval=whole["interval"])
    torch.testing.assert_close(again["weights"], whole["result"]["weights"], rtol=0, atol=0)


def test_on_the_command_line(tmp_path):
    (tmp_path / "run.yaml").write_text(jobs.CONFIG)
    fit = ("fit", "--config", "run.yaml")
    assert run(jobs.command, tmp_path, *fit, ranks=1) == [0]
    assert launch(jobs.command, tmp_path, *fit, ranks=1, kill=4).codes == [-SIGKILL]
    last = str(tmp_path / "run" / "version_1" / "checkpoints" / "last.ckpt")
    assert run(jobs.command, tmp_path, *fit, "--ckpt_path", last, ranks=1) == [0]
    uninterrupted, resumed = (load_file(tmp_path / "run" / f"version_{i}" / "student.safetensors") for i in (0, 2))
    torch.testing.assert_close(resumed, uninterrupted, rtol=0, atol=0)
    assert not (tmp_path / "run" / "version_1" / "student.safetensors").exists()
