import math

import pytest
import torch

from lit_distill.callbacks import EL2N
from lit_distill.callbacks.el2n import error_norm
from lit_distill.data import Mixup, RandomSubset, ScoredSubset
from lit_distill.data.score_file import load_scores
from lit_distill.errors import InputError
from lit_distill.student_file import load_card

from .fake import same, trainer, weights
from .scoring import digits, scripted, supervised


def recorded(folder, module, data, epochs=1, epoch=1, name="s", **kwargs):
    """The scores of a run, and the positions that it trains on."""
    path = folder / f"{name}.safetensors"
    trainer(folder, EL2N(str(path), epoch), max_epochs=epochs, **kwargs).fit(module, datamodule=data)
    part = data.parts["train"]
    return load_scores(path, part.images.targets), part.positions


def test_norms_by_hand():
    far = torch.tensor([[0.0, 0.0], [99.0, 0.0], [0.0, 99.0], [math.log(3), 0.0]])
    expected = torch.tensor(
        [0.5, 0.0, 2.0, 0.125]
    ).sqrt()  # of (1/2, 1/2), (1, 0), (0, 1) and (3/4, 1/4) against (1, 0)
    torch.testing.assert_close(error_norm(far, torch.zeros(4, dtype=torch.long)), expected)
    torch.testing.assert_close(
        error_norm(far.bfloat16(), torch.zeros(4, dtype=torch.long)), expected, atol=2e-3, rtol=0
    )


def test_every_training_sample_is_scored_as_it_is(tmp_path):
    module, data = supervised(), digits()
    scores, positions = recorded(tmp_path, module, data)
    assert torch.equal((~scores.isnan()).nonzero().squeeze(1), positions)
    images = data.parts["train"].images
    x = (images.x[positions] / 255 - data.mean[0]) / data.std[0]
    with torch.no_grad():
        p = module.student.eval()(x).softmax(1)
    p[torch.arange(100), images.targets[positions]] -= 1
    torch.testing.assert_close(scores[positions], p.square().sum(1).sqrt())


def test_neither_augmentation_nor_mixtures_nor_views_matter(tmp_path):
    def still():
        """Neither weights nor running statistics move."""
        module = supervised(lr=0.0)
        module.student[2] = torch.nn.Identity()
        return module

    first, _ = recorded(tmp_path, still(), digits())
    for kwargs in ({"augment": True}, {"mix": Mixup()}, {"strong_view": True}, {"index": True}, {"batch_size": 7}):
        again, _ = recorded(tmp_path, still(), digits(**kwargs))
        torch.testing.assert_close(again, first, equal_nan=True, rtol=1e-6, atol=1e-7)


def test_the_epoch_says_when(tmp_path):
    after_two, _ = recorded(tmp_path, supervised(), digits(), epochs=2, epoch=2)
    in_passing, _ = recorded(tmp_path, supervised(), digits(), epochs=4, epoch=2)
    after_one, _ = recorded(tmp_path, supervised(), digits(), epochs=4, epoch=1)
    assert torch.equal(in_passing.nan_to_num(), after_two.nan_to_num())
    assert not torch.equal(after_one.nan_to_num(), after_two.nan_to_num())
    assert load_card(tmp_path / "s.safetensors")["epoch"] == 1


def test_training_does_not_change_by_a_bit(tmp_path):
    with_scores, without = supervised(dropout=0.5), supervised(dropout=0.5)
    torch.manual_seed(1)
    recorded(tmp_path, with_scores, digits(augment=True), epochs=3, epoch=1)
    torch.manual_seed(1)
    trainer(tmp_path, max_epochs=3).fit(without, datamodule=digits(augment=True))
    assert same(weights(with_scores), weights(without))
    assert [m.training for m in with_scores.modules()] == [m.training for m in without.modules()]


def test_scores_of_two_runs_choose_a_subset(tmp_path):
    files = []
    for name in ("a", "b"):
        scores, positions = recorded(tmp_path, supervised(), digits(limit=None), name=name)
        files.append(str(tmp_path / f"{name}.safetensors"))
    data = digits(limit=None, subset=ScoredSubset(files, 0.1))
    data.setup("fit")
    hardest = positions[scores[positions].argsort(descending=True)[: round(0.1 * len(positions))]]
    assert torch.equal(data.parts["train"].positions, hardest.sort().values)


def test_the_card(tmp_path):
    recorded(tmp_path, supervised(), digits(seed=3, subset=RandomSubset(0.5)))
    card = load_card(tmp_path / "s.safetensors")
    said = {name: card[name] for name in ("score", "data", "network", "seed", "epoch", "samples", "scored")}
    assert said == {
        "score": "EL2N",
        "data": "Digits",
        "network": "Sequential",
        "seed": 3,
        "epoch": 1,
        "samples": 1438,
        "scored": 100,
    }


def test_a_short_look_writes_nothing(tmp_path):
    callback = EL2N(str(tmp_path / "s.safetensors"), epoch=1)
    trainer(tmp_path, callback, fast_dev_run=True).fit(supervised(), datamodule=digits())
    with pytest.warns(UserWarning, match="EL2N: training ended after 0 whole epochs, before epoch 1; no "):
        trainer(tmp_path, callback, limit_train_batches=2).fit(supervised(), datamodule=digits())
    with pytest.warns(UserWarning, match="EL2N: training ended after 2 whole epochs, before epoch 3; no "):
        trainer(tmp_path, EL2N(callback.path, epoch=3)).fit(supervised(), datamodule=digits())
    assert not list(tmp_path.iterdir())


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"^path: s.npz given for scores"):
        EL2N("s.npz")
    with pytest.raises(InputError, match=r"^epoch: 0 given to EL2N"):
        EL2N("s.safetensors", epoch=0)
    data = digits()
    data.setup()
    with pytest.raises(InputError, match=r"^callbacks: EL2N scores samples of a lit_distill data module"):
        trainer(tmp_path, EL2N("s.safetensors")).fit(scripted(), data.train_dataloader(), data.val_dataloader())
