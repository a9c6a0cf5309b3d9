"""What is written is whole at any time, and holds the student alone."""

from signal import SIGKILL

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from lit_distill.core.strategies import previous
from lit_distill.models import restored

from . import jobs
from .ranks import launch, run


@pytest.mark.parametrize(("strategy", "ranks"), [("auto", 1), ("ddp", 2), ("fsdp2", 2)])
def test_a_killed_save_leaves_the_previous_checkpoint(strategy, ranks, tmp_path):
    path = tmp_path / "last.ckpt"
    killed = launch(jobs.killed_save, tmp_path, strategy, ranks=ranks, patience=1.0)
    assert killed.codes[0] == -SIGKILL
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == [".last.ckpt.partial"]
    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    for state in run(jobs.loaded, tmp_path, strategy, str(path), ranks=ranks):
        torch.testing.assert_close(state, saved, rtol=0, atol=0)


def test_fsdp2_checkpoints(tmp_path):
    path = tmp_path / "last.ckpt"
    first, second = run(jobs.saved_fsdp2, tmp_path)
    assert first["tested"] == second["tested"] == pytest.approx(first["tested after loading"])
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)

    # one file that holds the student, and no teacher
    dcp_to_torch_save(path, tmp_path / "whole.ckpt")
    whole = torch.load(tmp_path / "whole.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(whole, first["weights"], rtol=0, atol=0)
    assert not [name for name in whole if "teacher" in name]
    student = restored(jobs.network(8), str(tmp_path / "whole.ckpt"))
    torch.testing.assert_close(
        dict(student.state_dict()),
        {name.removeprefix("student."): w for name, w in whole.items() if name.startswith("student.")},
        rtol=0,
        atol=0,
    )

    # the average of the student lies whole in the folder, without the teacher
    meta = torch.load(path / "meta.pt", weights_only=True)
    average = meta["callbacks"]["StudentEMA"]["average"]
    torch.testing.assert_close(average, first["average"], rtol=0, atol=0)
    assert average.keys() == student.state_dict().keys()

    # a save that is killed while its folder takes the place of the previous one
    path.rename(previous(path))
    for state in run(jobs.loaded, tmp_path, "fsdp2", str(path)):
        torch.testing.assert_close(state, whole, rtol=0, atol=0)
