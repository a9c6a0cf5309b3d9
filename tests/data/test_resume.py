"""An interrupted and resumed run sees what an uninterrupted one sees."""

import pytest
import torch
from lightning.pytorch import Callback

from lit_distill.data import Digits
from lit_distill.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

EPOCHS, BATCHES = 2, 3  # two of 32 samples and one of 6 in each epoch


class SaveEverywhere(Callback):
    """Saves wherever checkpoints are saved, and notes how many batches the module had seen."""

    def __init__(self, folder):
        self.folder = folder
        self.saved = []

    def save(self, trainer, module):
        path = self.folder / f"{len(self.saved)}.ckpt"
        trainer.save_checkpoint(path)
        self.saved.append((len(module.batches["train"]), path))

    def on_train_batch_end(self, trainer, module, *args):
        self.save(trainer, module)

    def on_validation_end(self, trainer, module):
        self.save(trainer, module)

    def on_train_epoch_end(self, trainer, module):
        self.save(trainer, module)

    def on_exception(self, trainer, module, exception):
        self.save(trainer, module)


@pytest.fixture
def run(recorder, trainer):
    def run(
        checkpoint=None, callback=None, asks_for_steps=False, fails_at=None, num_workers=0, batch_size=32, **kwargs
    ):
        data = Digits(batch_size=batch_size, limit=70, index=True, augment=True, num_workers=num_workers, seed=3)
        module = recorder(asks_for_steps, fails_at)
        callbacks = [callback] if callback else []
        trainer(**{"max_epochs": EPOCHS, "callbacks": callbacks, **kwargs}).fit(module, data, ckpt_path=checkpoint)
        return module.batches["train"]

    return run


def assert_same(ours, theirs):
    assert [batch[2].tolist() for batch in ours] == [batch[2].tolist() for batch in theirs]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(ours, theirs, strict=True))


STEPS = {"max_epochs": -1, "max_steps": 2 * BATCHES + 1}


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"limit_val_batches": 0},
        {"val_check_interval": 2},
        {"limit_train_batches": 2},
        {"accumulate_grad_batches": 2},
        {"reload_dataloaders_every_n_epochs": 1},
        {"asks_for_steps": True},
        STEPS,
        {**STEPS, "limit_val_batches": 0},
        {**STEPS, "asks_for_steps": True},
        {**STEPS, "val_check_interval": 3, "check_val_every_n_epoch": None},
    ],
    ids=lambda kwargs: "-".join(kwargs) or "plain",
)
def test_resuming_from_any_checkpoint(run, tmp_path, kwargs):
    saver = SaveEverywhere(tmp_path)
    whole = run(callback=saver, **kwargs)
    assert len(whole) == {"max_steps": STEPS["max_steps"], "limit_train_batches": EPOCHS * 2}.get(
        next((key for key in kwargs if key in ("max_steps", "limit_train_batches")), ""), EPOCHS * BATCHES
    )
    for seen, path in saver.saved:
        assert_same(whole[:seen] + run(path, **kwargs), whole)


def test_resuming_with_workers(run, tmp_path):
    saver = SaveEverywhere(tmp_path)
    whole = run(callback=saver, num_workers=2, limit_val_batches=0)
    for seen, path in saver.saved[1:7:2]:
        assert_same(whole[:seen] + run(path, num_workers=1, limit_val_batches=0), whole)


@pytest.mark.parametrize("fails_at", [0, 2, BATCHES - 1, BATCHES, BATCHES + 2])
@pytest.mark.parametrize("kwargs", [{}, STEPS, {"asks_for_steps": True}], ids=["epochs", "steps", "asks"])
def test_step_stopped_half_way_is_done_again(run, tmp_path, fails_at, kwargs):
    saver = SaveEverywhere(tmp_path)
    with pytest.raises(SystemExit):
        run(callback=saver, fails_at=fails_at, **kwargs)
    seen, path = saver.saved[-1]
    assert seen == fails_at
    whole = run(**kwargs)
    assert_same(whole[:seen] + run(path, **kwargs), whole)


def test_resumed_run_can_be_resumed(run, tmp_path):
    (tmp_path / "again").mkdir()
    first, second = SaveEverywhere(tmp_path), SaveEverywhere(tmp_path / "again")
    whole = run(callback=first)
    seen, path = first.saved[1]
    more = run(path, second)
    for number, path in second.saved:
        assert_same(whole[:seen] + more[:number] + run(path), whole)


def test_global_batch_must_stay_in_the_middle_of_an_epoch(run, tmp_path):
    saver = SaveEverywhere(tmp_path)
    run(callback=saver, limit_val_batches=0)
    with pytest.raises(InputError, match=r"^batch_size: 16 samples .* begun with 32; use the same or resume "):
        run(saver.saved[1][1], batch_size=16)
    end_of_epoch = saver.saved[BATCHES][1]
    assert len(run(end_of_epoch, batch_size=50)) == (EPOCHS - 1) * 2


def test_loader_without_a_trainer_resumes():
    data = Digits(limit=100, batch_size=32)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(2)
    whole = [batch.position.tolist() for batch in loader]
    batches = iter(loader)
    next(batches), next(batches)
    resumed = data.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert resumed.state_dict() == loader.state_dict()
    resumed.sampler.set_epoch(2)
    assert [batch.position.tolist() for batch in resumed] == whole[2:]
    assert [batch.position.tolist() for batch in resumed] == whole
