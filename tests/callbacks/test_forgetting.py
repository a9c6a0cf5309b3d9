import lightning as L
import pytest
import torch

from lit_distill.callbacks import Forgetting
from lit_distill.data import Mixup
from lit_distill.data.score_file import load_scores
from lit_distill.errors import InputError
from lit_distill.student_file import load_card

from .fake import same, trainer, weights
from .scoring import EPOCHS, FORGOTTEN, Numbered, TellEpoch, digits, scripted, supervised


def counted(folder, *callbacks, ckpt_path=None, **kwargs):
    """The counts of a run of the script."""
    path, data = folder / "f.safetensors", Numbered(**{"index": True, "batch_size": 3} | kwargs)
    settings = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0}
    run = trainer(folder, Forgetting(str(path)), TellEpoch(), *callbacks, **settings)
    run.fit(scripted(), datamodule=data, ckpt_path=ckpt_path)
    return load_scores(path, data.parts["train"].images.targets)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_counts_by_hand(tmp_path, batch_size):
    assert counted(tmp_path, batch_size=batch_size).tolist() == FORGOTTEN
    card = load_card(tmp_path / "f.safetensors")
    assert (card["score"], card["epochs"], card["scored"]) == ("Forgetting", EPOCHS, 8)


def test_samples_that_are_not_trained_on_have_none(tmp_path):
    counts = counted(tmp_path, limit=5)
    assert counts.isfinite().sum() == 5
    assert all(count == FORGOTTEN[i] for i, count in enumerate(counts.tolist()) if count == count)


class SaveAtEveryStep(L.Callback):
    """Checkpoints after each batch, each validation and each epoch."""

    def __init__(self, folder):
        self.folder, self.saved = folder, []

    def save(self, trainer):
        self.saved.append(self.folder / f"{len(self.saved)}.ckpt")
        trainer.save_checkpoint(self.saved[-1])

    def on_train_batch_end(self, trainer, *_):
        self.save(trainer)

    def on_validation_end(self, trainer, _):
        self.save(trainer)

    def on_train_epoch_end(self, trainer, _):
        self.save(trainer)


def test_a_resumed_run_counts_what_an_uninterrupted_one_does(tmp_path):
    saver = SaveAtEveryStep(tmp_path)
    counted(tmp_path, saver)
    assert len(saver.saved) == EPOCHS * 5
    for number, checkpoint in enumerate(saver.saved):
        (folder := tmp_path / str(number)).mkdir()
        assert counted(folder, ckpt_path=checkpoint).tolist() == FORGOTTEN, number


def test_training_does_not_change_by_a_bit(tmp_path):
    with_counts, without = supervised(dropout=0.5), supervised(dropout=0.5)
    for module, callbacks in ((with_counts, [Forgetting(str(tmp_path / "f.safetensors"))]), (without, [])):
        torch.manual_seed(1)
        trainer(tmp_path, *callbacks).fit(module, datamodule=digits(index=True, augment=True))
    assert same(weights(with_counts), weights(without))


def test_a_second_fit_counts_anew(tmp_path):
    callback, data, module = Forgetting(str(tmp_path / "f.safetensors")), Numbered(index=True), scripted()
    for _ in range(2):
        run = trainer(tmp_path, callback, TellEpoch(), max_epochs=EPOCHS)
        run.fit(module, datamodule=data)
        assert load_scores(callback.path, data.parts["train"].images.targets).tolist() == FORGOTTEN


def test_a_short_look_writes_nothing(tmp_path):
    callback = Forgetting(str(tmp_path / "f.safetensors"))
    trainer(tmp_path, callback, fast_dev_run=True).fit(scripted(), datamodule=Numbered(index=True))
    for kwargs, times in (({"max_epochs": 1}, 1), ({"max_epochs": 3, "limit_train_batches": 1}, 0)):
        with pytest.warns(UserWarning, match=f"Forgetting: some samples came up {times} times, at least 2"):
            trainer(tmp_path, callback, **kwargs).fit(scripted(), datamodule=Numbered(index=True, batch_size=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kwargs", [{"index": False}, {"mix": Mixup()}, {"strong_view": True}])
def test_samples_must_be_known(tmp_path, kwargs):
    with pytest.raises(InputError, match=r"^callbacks: Forgetting needs to know which sample is which"):
        counted(tmp_path, **kwargs)


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"^path: f.pt given for scores"):
        Forgetting("f.pt")
    data = Numbered(index=True)
    data.setup()
    with pytest.raises(InputError, match=r"^callbacks: Forgetting scores samples of a lit_distill data module"):
        trainer(tmp_path, Forgetting("f.safetensors")).fit(scripted(), data.train_dataloader(), data.val_dataloader())
