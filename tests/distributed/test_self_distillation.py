"""A momentum teacher and linear probes on two processes."""

import pytest
import torch

from . import self_jobs
from .ranks import run


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_equal_one_and_a_resumed_run_an_uninterrupted_one(strategy, tmp_path):
    one = run(self_jobs.fit, tmp_path / "one", ranks=1)[0]
    assert one["validation"].keys() >= {"val/probe", "val/probe_teacher", "val/teacher_acc"}
    whole = run(self_jobs.fit, tmp_path / strategy, strategy)
    resumed = run(self_jobs.fit, tmp_path / "resumed", strategy, ckpt_path=str(tmp_path / strategy / "middle.ckpt"))
    for rank in range(2):
        for network in ("student", "teacher"):
            torch.testing.assert_close(whole[rank][network], one[network], rtol=0, atol=1e-5)
            torch.testing.assert_close(resumed[rank][network], whole[rank][network], rtol=0, atol=0)
        assert whole[rank]["validation"] == pytest.approx(one["validation"], abs=1e-5)


def test_a_resumed_run_has_the_running_statistics_of_rank_0(tmp_path):
    whole = run(self_jobs.fit, tmp_path / "ddp", "ddp", norm="batch")
    resumed = run(self_jobs.fit, tmp_path / "resumed", "ddp", norm="batch", ckpt_path=str(tmp_path / "ddp/middle.ckpt"))
    for rank in range(2):
        torch.testing.assert_close(resumed[rank]["teacher"], whole[rank]["teacher"], rtol=0, atol=0)
