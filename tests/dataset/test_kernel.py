from functools import partial

import numpy as np
import pytest
import torch

from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import FRePo, LearnedLabels, SiameseAugmentation
from lit_distill.dataset.objectives.kernel import kernel_ridge, label_margin
from lit_distill.dataset.targets import centred, regression_error
from lit_distill.errors import InputError
from lit_distill.models import CondensationConvNet

from .steps import pixels, step


def network(width=4):
    return CondensationConvNet((1, 8, 8), num_classes=3, width=width, depth=2).requires_grad_(False)


@pytest.mark.parametrize(("images", "features"), [(4, 7), (7, 4)])
def test_equals_numpy(images, features):
    real, synthetic, labels = torch.randn(5, features), torch.randn(images, features), torch.randn(images, 3)
    x, y = synthetic.double().numpy(), labels.double().numpy()
    kernel = x @ x.T
    kernel += 1e-6 * np.trace(kernel) / images * np.eye(images)
    wanted = real.double().numpy() @ x.T @ np.linalg.solve(kernel, y)
    # in float64 all the way, as with more images than features the condition number is about 1e6
    got = kernel_ridge(real.double(), synthetic.double(), labels.double())
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(kernel_ridge(real, synthetic, labels), got.float(), rtol=1e-4, atol=1e-4)


def test_predicts_what_it_has_seen():
    synthetic, labels = torch.randn(3, 6), torch.randn(3, 2)
    torch.testing.assert_close(kernel_ridge(synthetic, synthetic, labels), labels, rtol=1e-4, atol=1e-4)


def test_scale_of_features_does_not_matter():
    real, synthetic, labels = torch.randn(4, 6), torch.randn(3, 6), torch.randn(3, 2)
    scaled = kernel_ridge(1e3 * real, 1e3 * synthetic, labels)
    torch.testing.assert_close(scaled, kernel_ridge(real, synthetic, labels), rtol=1e-5, atol=1e-6)


def test_gradients():
    inputs = [torch.randn(4, 5), torch.randn(3, 5), torch.randn(3, 2)]
    inputs = [x.double().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(partial(kernel_ridge, ridge=0.1), inputs)


def test_a_singular_kernel_is_not_a_number():
    assert kernel_ridge(torch.ones(1, 2), torch.zeros(2, 2), torch.ones(2, 1)).isnan().all()


def test_under_autocast():
    real, synthetic, labels = torch.randn(4, 6), torch.randn(3, 6), torch.randn(3, 2)
    plain = kernel_ridge(real, synthetic, labels)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(kernel_ridge(real, synthetic, labels), plain, rtol=0, atol=0)


def test_margin():
    labels = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.4, 0.0], [-1.0, 0.2, 0.2]])
    torch.testing.assert_close(label_margin(labels), torch.tensor([1 / 3, 0.1, 0.0]))
    # a label whose class is safe is left alone
    labels.requires_grad_()
    label_margin(labels)[0].backward()
    assert not labels.grad.any()


def test_centred_targets():
    torch.testing.assert_close(centred(torch.arange(3), 3).sum(1), torch.zeros(3))
    assert centred(learned := torch.randn(2, 3), 3) is learned


def test_is_zero_but_for_the_margin_where_the_real_images_are_the_synthetic_ones():
    synthetic = pixels(images_per_class=1)
    made = step(synthetic)
    made = type(made)(0, 0, made.classes, synthetic.whole(), synthetic)
    loss = FRePo()(made, network(width=8))
    torch.testing.assert_close(loss, torch.tensor(-1 / 3), rtol=0, atol=1e-4)


def test_shares_of_classes_add_up():
    synthetic, net = pixels(kind=LearnedLabels), network()
    whole = FRePo()(step(synthetic), net)
    parts = [FRePo()(step(synthetic, classes=classes), net) for classes in ([0, 2], [1])]
    torch.testing.assert_close(sum(parts), whole)


def test_augments_classes_alike_on_every_process():
    synthetic, net, augment = pixels(kind=LearnedLabels), network(), SiameseAugmentation()
    whole = FRePo()(step(synthetic, augment=augment), net)
    parts = [FRePo()(step(synthetic, classes=classes, augment=augment), net) for classes in ([0, 2], [1])]
    torch.testing.assert_close(sum(parts), whole)
    assert not torch.isclose(whole, FRePo()(step(synthetic), net))


def test_gradient_of_images_and_labels():
    net = CondensationConvNet((2, 4, 4), num_classes=2, width=2, depth=1).double().requires_grad_(False)
    synthetic = pixels(classes=2, images_per_class=1, shape=(2, 4, 4), kind=LearnedLabels).double()
    made = step(synthetic)

    names = ["images", "labels"]
    values = [getattr(synthetic, name).detach().clone().requires_grad_() for name in names]

    def objective(*given):
        for name, value in zip(names, given, strict=True):
            delattr(synthetic, name)
            setattr(synthetic, name, value)
        return FRePo(ridge=1e-2)(made, net)

    assert torch.autograd.gradcheck(objective, values, fast_mode=True)


def test_mirror_images_join():
    synthetic, net = pixels(), network()
    mirrored = pixels()
    with torch.no_grad():
        mirrored.images.copy_(synthetic.images.flip(-1))
    made, other = step(synthetic), step(mirrored)
    torch.testing.assert_close(FRePo(flip=True)(made, net), FRePo(flip=True)(other, net), rtol=1e-4, atol=1e-5)
    assert not torch.isclose(FRePo()(made, net), FRePo()(other, net))


def test_learned_labels_begin_centred():
    data = ClassBatches(Digits(limit=40), per_class=1)
    data.setup("fit")
    learned = LearnedLabels(images_per_class=2)
    learned.build(10, (1, 8, 8))
    learned.start(data, torch.Generator())
    given = learned.decode(torch.tensor([3, 5]))
    torch.testing.assert_close(given.targets[:, 0], centred(torch.tensor([3, 5]), 10))
    torch.testing.assert_close(given.targets[:, 1], given.targets[:, 0])
    assert {name for name, _ in learned.named_parameters()} == {"images", "labels"}


def test_regression_error_counts_half():
    assert regression_error(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)).tolist() == [2.5]


def test_wrong_numbers():
    with pytest.raises(InputError, match="ridge must be positive, not 0"):
        FRePo(ridge=0)
