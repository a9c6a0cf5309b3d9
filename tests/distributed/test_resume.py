"""A run that two ranks share, killed and resumed, ends as if it had not been."""

from signal import SIGKILL

import pytest
import torch

from . import jobs
from .ranks import launch, run

MID_EPOCH, EPOCH_END = ("on_before_optimizer_step", 4), ("on_validation_start", 3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_resumed_equals_uninterrupted(strategy, tmp_path):
    whole = run(jobs.long_run, tmp_path / "whole", strategy)
    for kill in (MID_EPOCH, EPOCH_END):
        folder = tmp_path / kill[0]
        killed = launch(jobs.long_run, folder, strategy, kill=kill)
        assert killed.codes == [-SIGKILL] * 2
        resumed = run(jobs.long_run, folder, strategy, resume=str(folder / "last.ckpt"))
        for result, expected in zip(resumed, whole, strict=True):
            assert result["steps"] == expected["steps"] == jobs.STEPS
            for kind in ("weights", "average"):
                torch.testing.assert_close(result[kind], expected[kind], rtol=0, atol=1e-6)
