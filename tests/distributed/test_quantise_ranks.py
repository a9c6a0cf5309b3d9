"""A quantised student on two processes."""

import pytest
import torch

from . import quantise_jobs
from .ranks import run


@pytest.mark.parametrize("points", [False, True])
def test_two_ranks_equal_one(points, tmp_path):
    (one,) = run(quantise_jobs.fit, tmp_path / "one", points, ranks=1)
    for rank in run(quantise_jobs.fit, tmp_path / "two", points):
        torch.testing.assert_close(rank["student"], one["student"], rtol=0, atol=1e-5)
        for name in ("acc", "int8_acc", "float_acc"):
            assert rank["test"][f"test/{name}"] == pytest.approx(one["test"][f"test/{name}"], abs=1e-5)
