"""Two processes that share each batch train as one process does."""

import pytest
import torch

from . import jobs
from .ranks import run

SETTINGS = {
    "plain": {},
    "clipped and accumulated": {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The training on one process, by the name of its settings."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: run(jobs.fit, folder, ranks=1, **settings)[0] for name, settings in SETTINGS.items()}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_equal_one(strategy, settings, alone, tmp_path):
    shared = run(jobs.fit, tmp_path, strategy, **SETTINGS[settings])
    one = alone[settings]
    assert [result["rows"] for result in shared] == [[4, 4, 3] * jobs.EPOCHS, [4, 4, 2] * jobs.EPOCHS]
    for result in shared:
        torch.testing.assert_close(result["losses"], one["losses"], rtol=0, atol=1e-5)
        torch.testing.assert_close(result["weights"], one["weights"], rtol=0, atol=1e-5)
        assert result["validation"] == pytest.approx(one["validation"], abs=1e-5)


def test_the_settings_matter(alone):
    first, second = (alone[name]["weights"]["student.fc.weight"] for name in SETTINGS)
    assert (first - second).abs().max() > 1e-3


def test_batch_norm_under_fsdp2_is_that_of_ddp(tmp_path):
    """Each rank normalises by its own samples under both; the statistics that count are those of rank 0."""
    ddp, fsdp2 = (run(jobs.fit, tmp_path / strategy, strategy, norm="batch") for strategy in ("ddp", "fsdp2"))
    for result in fsdp2:
        torch.testing.assert_close(result["weights"], ddp[0]["weights"], rtol=0, atol=1e-5)
        assert result["validation"] == pytest.approx(ddp[0]["validation"], abs=1e-5)


@pytest.mark.parametrize(
    "terms", [["ce", "learned"], ["inner"]], ids=["a learned scalar", "features alone, from within a sharded block"]
)
def test_terms_that_ask_for_more(terms, tmp_path):
    one = run(jobs.fit, tmp_path / "one", ranks=1, terms=terms)[0]
    for strategy in ("ddp", "fsdp2"):
        for result in run(jobs.fit, tmp_path / strategy, strategy, terms=terms):
            torch.testing.assert_close(result["weights"], one["weights"], rtol=0, atol=1e-5)
    assert one["losses"][-1] < one["losses"][0]
