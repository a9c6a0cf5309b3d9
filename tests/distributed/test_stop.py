"""A loss that is not a number on one rank ends the job on all of them."""

import pytest
import torch

from . import jobs
from .ranks import launch


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_all_ranks_stop_together_and_the_checkpoint_stands(strategy, tmp_path):
    ended = launch(jobs.stops, tmp_path, strategy)
    assert ended.codes == [1, 1]  # each ended by itself: a rank that waits for the other is killed
    last = [log.strip().splitlines()[-1] for log in ended.logs]
    assert last[0] == last[1]
    assert "InputError: train/loss is nan at step 2 (ce " in last[0]
    assert "blows nan" in last[0]
    path = tmp_path / "last.ckpt"
    saved = torch.load(path / "meta.pt" if strategy == "fsdp2" else path, weights_only=True)
    assert saved["global_step"] == 2
