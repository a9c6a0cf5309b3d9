from signal import SIGKILL

import lightning as L
import pytest
import torch

from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import DatasetDistiller, Pixels
from lit_distill.errors import InputError

from ..distributed.ranks import launch, run
from . import distiller_jobs as jobs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(jobs.fit, tmp_path_factory.mktemp("whole"), ranks=1)[0]


def test_global_random_numbers_are_left_alone(whole):
    assert whole["untouched"]


def test_the_seed_says_everything(whole, tmp_path):
    again, other = jobs.fit(tmp_path / "again"), jobs.fit(tmp_path / "other", seed=1)
    torch.testing.assert_close(again["synthetic"], whole["synthetic"], rtol=0, atol=0)
    assert not torch.equal(other["synthetic"]["images"], whole["synthetic"]["images"])


@pytest.mark.parametrize("kill", [3, 4])
def test_resumed_equals_uninterrupted(whole, kill, tmp_path):
    assert launch(jobs.fit, tmp_path, ranks=1, kill=kill).codes == [-SIGKILL]
    (result,) = run(jobs.fit, tmp_path, ranks=1, resume=str(tmp_path / "last.ckpt"))
    torch.testing.assert_close(result["synthetic"], whole["synthetic"], rtol=0, atol=0)


@pytest.mark.distributed
def test_two_ranks_equal_one(whole, tmp_path):
    for result in run(jobs.fit, tmp_path):
        torch.testing.assert_close(result["synthetic"], whole["synthetic"], rtol=0, atol=1e-5)


def trainer(tmp_path):
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1, default_root_dir=tmp_path
    )


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
def test_data_of_another_kind(tmp_path):
    with pytest.raises(InputError, match="data: Digits has no classes to distil; accepted is ClassBatches"):
        trainer(tmp_path).fit(jobs.module(), Digits())


def test_more_images_than_a_class_has(tmp_path):
    data = ClassBatches(Digits(limit=40), per_class=2)
    with pytest.raises(InputError, match="images_per_class must be at most 4, the images of class 0, not 9"):
        trainer(tmp_path).fit(jobs.module(synthetic=Pixels(images_per_class=9)), data)


def test_wrong_numbers():
    with pytest.raises(InputError, match="images_per_class must be at least 1, not 0"):
        Pixels(images_per_class=0)


def test_an_optimizer_that_refuses(tmp_path):
    module = jobs.module(optimizer=lambda groups: torch.optim.SGD(groups, lr=-1.0))
    assert isinstance(module, DatasetDistiller)
    with pytest.raises(InputError, match="optimizer: Invalid learning rate"):
        trainer(tmp_path).fit(module, ClassBatches(Digits(), per_class=2))


def test_nothing_to_learn(tmp_path):
    module = DatasetDistiller(synthetic=Pixels(images_per_class=2))
    trainer(tmp_path).fit(module, data := ClassBatches(Digits(), per_class=2))
    assert module.global_step == 0
    for c in range(10):
        assert all((image == data.images_of(c)).flatten(1).all(1).any() for image in module.synthetic.images[c])


def test_parts_that_go_together():
    with pytest.raises(InputError, match="objective, networks and optimizer go together"):
        jobs.module(optimizer=None)
