"""Images that are augmented in a fixed number of ways."""

import pytest
import torch

from lit_distill.data import Digits, ImageFolder
from lit_distill.errors import InputError

EPOCHS = 5


@pytest.fixture
def shown(recorder, trainer, image_folder):
    """Makes a function that says what each epoch showed: images in the order of their positions."""
    root = str(image_folder())

    def show(kind, **kwargs):
        if kind is Digits:
            data = Digits(limit=20, batch_size=8, augment=True, index=True, **kwargs)
        else:
            data = ImageFolder(root, image_size=12, batch_size=4, val_fraction=0.2, index=True, **kwargs)
        module = recorder()
        trainer(max_epochs=EPOCHS, limit_val_batches=0).fit(module, data)
        batches = module.batches["train"]
        a = len(batches) // EPOCHS
        epochs = [[torch.cat(part) for part in zip(*batches[i * a : i * a + a], strict=True)] for i in range(EPOCHS)]
        return [x[index.argsort()] for x, _, index in epochs], [index for *_, index in epochs]

    return show


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", [Digits, ImageFolder])
def test_views_come_again(kind, num_workers, shown):
    images, orders = shown(kind, views=2, num_workers=num_workers)
    for epoch in range(EPOCHS - 2):
        assert torch.equal(images[epoch], images[epoch + 2])
        assert not torch.equal(images[epoch], images[epoch + 1])
        assert not torch.equal(orders[epoch], orders[epoch + 2])


@pytest.mark.parametrize("kind", [Digits, ImageFolder])
def test_they_are_the_same_in_every_run(kind, shown):
    (first, orders), (second, others) = shown(kind, views=2, seed=0), shown(kind, views=2, seed=1)
    assert not torch.equal(orders[0], others[0])
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [Digits, ImageFolder])
def test_without_a_number_they_are_new_in_every_epoch_and_run(kind, shown):
    (first, _), (second, _) = shown(kind, seed=0), shown(kind, seed=1)
    every = first + second
    assert not any(torch.equal(a, b) for i, a in enumerate(every) for b in every[:i])


def test_there_is_at_least_one():
    with pytest.raises(InputError, match="views: 0 is below 1"):
        Digits(views=0)
