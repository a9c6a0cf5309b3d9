"""Networks with exits train on two processes as on one."""

import pytest
import torch

from . import exit_jobs
from .ranks import run


@pytest.mark.parametrize("exits", ["byot", "hierarchical"])
def test_two_ranks_equal_one(exits, tmp_path):
    one = run(exit_jobs.fit, tmp_path / "one", exits, ranks=1)[0]
    assert "val/acc_early" in one["validation"]
    for strategy in ("ddp", "fsdp2"):
        for result in run(exit_jobs.fit, tmp_path / strategy, exits, strategy):
            torch.testing.assert_close(result["weights"], one["weights"], rtol=0, atol=1e-5)
            assert result["validation"] == pytest.approx(one["validation"], abs=1e-5)
    for name in ("exits.early.net.0", "exits.early.fc", "network.blocks.0.conv", "network.fc"):
        moved = one["weights"][f"student.{name}.weight"] - one["start"][f"student.{name}.weight"]
        assert moved.abs().max() > 1e-3, name
