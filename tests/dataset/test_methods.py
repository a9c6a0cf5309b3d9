"""Methods whose networks, labels or crops live through a run: interrupted, resumed and on two processes."""

from signal import SIGKILL

import pytest
import torch

from ..distributed.ranks import launch, run
from . import distiller_jobs as jobs

METHODS = ["frepo", "cv_dd", "dc", "idc"]


@pytest.fixture(scope="module", params=METHODS)
def whole(request, tmp_path_factory):
    (result,) = run(jobs.fit, tmp_path_factory.mktemp(request.param), ranks=1, method=request.param)
    return request.param, result


def test_global_random_numbers_are_left_alone(whole):
    assert whole[1]["untouched"]


@pytest.mark.parametrize("kill", [3, 4])
def test_resumed_equals_uninterrupted(whole, kill, tmp_path):
    method, result = whole
    assert launch(jobs.fit, tmp_path, ranks=1, kill=kill, method=method).codes == [-SIGKILL]
    (resumed,) = run(jobs.fit, tmp_path, ranks=1, resume=str(tmp_path / "last.ckpt"), method=method)
    torch.testing.assert_close(resumed["synthetic"], result["synthetic"], rtol=0, atol=0)


@pytest.mark.distributed
def test_two_ranks_equal_one(whole, tmp_path):
    method, result = whole
    for rank in run(jobs.fit, tmp_path, method=method):
        torch.testing.assert_close(rank["synthetic"], result["synthetic"], rtol=0, atol=1e-5)


def test_clipped_pixels_are_those_of_pictures():
    synthetic = jobs.module(**jobs.cv_dd()).synthetic
    data = jobs.ClassBatches(jobs.Digits(limit=40), per_class=1)
    data.setup("fit")
    synthetic.build(10, (1, 8, 8))
    synthetic.start(data, torch.Generator().manual_seed(0))
    noise = synthetic.images.detach().clone()
    synthetic.project()
    (mean,), (std,) = data.mean, data.std
    pixels = synthetic.images.detach() * std + mean
    assert pixels.min() == pytest.approx(0, abs=1e-6)
    assert pixels.max() == pytest.approx(1, abs=1e-6)
    inside = (pixels > 1e-6) & (pixels < 1 - 1e-6)
    assert inside.any()
    assert torch.equal(synthetic.images[inside], noise[inside])
