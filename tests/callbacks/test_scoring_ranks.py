import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .scoring import FORGOTTEN


@pytest.mark.distributed
def test_two_processes_score_as_one_does(tmp_path):
    script = str(Path(__file__).with_name("scoring_ranks.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, script, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    counts = torch.load(tmp_path / "counts.pt", weights_only=True)
    assert counts.shape == (4, 8)
    for row in counts.tolist():
        assert sum(count == count for count in row) == 7
        assert all(count == forgotten for count, forgotten in zip(row, FORGOTTEN, strict=True) if count == count)
    whole, resumed = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "resumed"))
    assert whole > 0
    assert torch.equal(whole, resumed)
