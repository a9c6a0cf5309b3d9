import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_distill.losses.gather import gathered


def test_one_process_gets_its_own_tensor():
    x = torch.randn(3, 2, requires_grad=True)
    assert gathered(x) is x


@pytest.mark.distributed
def test_two_ranks_equal_one(tmp_path):
    script = str(Path(__file__).with_name("two_ranks.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(tmp_path / "meeting")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
