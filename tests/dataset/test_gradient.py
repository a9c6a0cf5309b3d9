from functools import partial

import lightning as L
import pytest
import torch
from torch import nn

from lit_distill.data import ClassBatches, Digits
from lit_distill.data.sampler import BatchKey
from lit_distill.dataset import (
    DatasetDistiller,
    FeatureMatching,
    GradientMatching,
    Pixels,
    SiameseAugmentation,
    TrainedOnSynthetic,
)
from lit_distill.dataset.objectives.gradient import (
    cosine_distance,
    gradient_distance,
    real_gradients,
    settle,
    synthetic_gradients,
)
from lit_distill.dataset.step import Step
from lit_distill.errors import InputError
from lit_distill.models import MLP, CondensationConvNet
from lit_distill.models.random_weights import seeded

from .steps import pixels, step

DISTANCES = ["rows", "cosine", "squares", "absolute", "row_means"]


def network(width=4, **kwargs):
    return CondensationConvNet((1, 8, 8), num_classes=3, width=width, depth=2, **kwargs).requires_grad_(False)


def one_by_one(net, images, names, classes=range(3)):
    """Gradients of each class as one writes them down."""
    net.requires_grad_(True)
    every = []
    for x, label in zip(images, classes, strict=True):
        loss = nn.functional.cross_entropy(net(x), torch.full((len(x),), label))
        every.append(torch.autograd.grad(loss, [dict(net.named_parameters())[name] for name in names]))
    net.requires_grad_(False)
    return [torch.stack(of_classes) for of_classes in zip(*every, strict=True)]


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("gradients", [real_gradients, synthetic_gradients])
def test_gradients_of_all_classes_are_those_of_each(norm, gradients):
    net = network(norm=norm).eval()
    images = torch.randn(3, 70, 1, 8, 8)  # which are two pieces
    weights = dict(net.named_parameters())
    got = gradients(net, weights, images, torch.arange(3))
    torch.testing.assert_close(list(got), one_by_one(net, images, list(weights)), rtol=1e-4, atol=1e-6)
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


def test_the_real_side_keeps_no_graph():
    net = network()
    images = torch.randn(3, 2, 1, 8, 8)
    of_real = real_gradients(net, dict(net.named_parameters()), images, torch.arange(3))
    assert not any(gradient.requires_grad for gradient in of_real)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_of_the_images(distance):
    shape = (2, 4, 4)
    net = CondensationConvNet(shape, num_classes=2, width=2, depth=1).requires_grad_(False).double()
    synthetic = pixels(classes=2, images_per_class=1, shape=shape).double()
    made = step(synthetic)

    def objective(images):
        del synthetic.images
        synthetic.images = images
        return GradientMatching(distance, weights="all")(made, net)

    assert torch.autograd.gradcheck(objective, synthetic.images.detach().clone().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("weights", ["all", "matrices", "convolutions"])
def test_is_zero_where_the_real_images_are_the_synthetic_ones(distance, weights):
    synthetic, net = pixels(), network().double()
    synthetic.double()
    made = step(synthetic)
    same = Step(0, 0, made.classes, synthetic.whole(), synthetic)
    objective = GradientMatching(distance, weights)
    loss = objective(same, net).item()
    if distance in ("rows", "cosine"):
        # what is added to the norms leaves a little of a row, and all of one whose gradient is next to nothing
        gradients = real_gradients(net, objective.matched(net), same.real.images, made.classes)
        if distance == "cosine":
            gradients = [torch.cat([x.flatten(1) for x in gradients], 1)[:, None]]
        rows = [x.flatten(2) if x.ndim > 2 else x[..., None] for x in gradients]
        left = sum((1e-6 / (row.square().sum(-1) + 1e-6)).sum() for row in rows)
        assert loss == pytest.approx(left.item(), rel=1e-6)
    else:
        assert loss == pytest.approx(0, abs=1e-12)
    assert objective(made, net).item() > loss


def test_positive_scales_of_rows_do_not_matter():
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    scales = torch.rand(5, 1) * 100 + 0.1
    torch.testing.assert_close(cosine_distance(a * scales, b), cosine_distance(a, b), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cosine_distance(-a, b), 10 - cosine_distance(a, b))


def test_one_vector_of_all_gradients():
    a, b = ([torch.randn(3, *shape) for shape in ((4, 2, 3), (4,))] for _ in range(2))
    flat = [torch.cat([x.flatten(1) for x in side], 1) for side in (a, b)]
    similarity = nn.functional.cosine_similarity(*flat).sum()
    torch.testing.assert_close(gradient_distance(a, b, "cosine"), 3 - similarity, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("augment", [None, SiameseAugmentation()])
def test_shares_of_classes_add_up(distance, augment):
    synthetic, net = pixels(), network()
    whole = GradientMatching(distance)(step(synthetic, augment=augment), net)
    parts = [
        GradientMatching(distance)(step(synthetic, classes=classes, augment=augment), net) for classes in ([0, 2], [1])
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-6)


def test_which_gradients_are_matched():
    net, names = network(), lambda weights: list(GradientMatching(weights=weights).matched(network()))
    assert names("all") == [name for name, _ in net.named_parameters()]
    assert names("matrices") == ["blocks.0.conv.weight", "blocks.1.conv.weight", "fc.weight"]
    assert names("convolutions") == ["blocks.0.conv.weight", "blocks.1.conv.weight"]


def test_statistics_of_batch_norm_are_of_all_classes():
    net, synthetic = network(norm="batch"), pixels()
    made = step(synthetic, per_class=20)
    expected = network(norm="batch")
    expected.load_state_dict(net.state_dict())
    expected.train()(made.real.images[:, :16].flatten(0, 1))
    settle(net, made)
    assert not any(module.training for module in net.modules())
    assert int(net.blocks[0].norm.num_batches_tracked) == 1
    torch.testing.assert_close(net.state_dict(), expected.state_dict())


@pytest.mark.parametrize("distance", ["squares", "absolute"])
def test_features_of_the_same_mean(distance):
    net, synthetic = network(), pixels()
    made = step(synthetic)
    doubled = made.real.images.repeat(1, 2, 1, 1, 1)
    same = Step(0, 0, made.classes, type(made.real)(doubled, made.real.targets.repeat(1, 2)), synthetic)
    objective = FeatureMatching(distance=distance)
    torch.testing.assert_close(objective(same, net), objective(made, net))
    means = [net.blocks(x).mean(0) for x in made.real.images]
    gaps = [net.blocks(x).mean(0) - mean for x, mean in zip(synthetic.whole().images, means, strict=True)]
    last = sum(gap.square().sum() if distance == "squares" else gap.abs().sum() for gap in gaps)
    torch.testing.assert_close(FeatureMatching(["blocks.1"], distance)(made, net), last)
    assert not net.blocks[1]._forward_hooks


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GradientMatching("ours"), "distance must be rows, cosine, .*, not 'ours'"),
        (lambda: GradientMatching(weights="some"), "weights must be all, matrices, convolutions, not 'some'"),
        (lambda: FeatureMatching(distance="rows"), "distance must be squares or absolute, not 'rows'"),
        (lambda: GradientMatching(weights="convolutions")(step(pixels()), MLP()), "weights: MLP has no convolutions"),
        (
            lambda: FeatureMatching()(step(pixels()), nn.Identity()),
            "layers: Identity has no blocks; name the layers to match",
        ),
        (lambda: FeatureMatching(["blocks.7"])(step(pixels()), network()), "blocks.7"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()


def accuracy(data, labelled):
    """Of a network that is trained on a set, on real images that were held out."""
    net = seeded(partial(CondensationConvNet, (1, 8, 8), width=16, depth=2), 1)
    images, targets = (part.detach().flatten(0, 1) for part in labelled)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), targets).backward()
        optimizer.step()
    part = data.data.parts["val"]
    batch = part[BatchKey(list(range(len(part))), 0, 0)]
    x, target = data.data.prepared(batch), batch.target
    return (net(x).argmax(1) == target).float().mean().item()


def test_noise_becomes_a_teacher():
    """Forty steps of DC on digits: what it matches gets nearer, and a network learns most of the digits from it."""
    losses, data = [], ClassBatches(Digits(), per_class=16)
    module = DatasetDistiller(
        synthetic=Pixels(images_per_class=1, init="noise"),
        objective=GradientMatching(),
        networks=TrainedOnSynthetic(partial(CondensationConvNet, (1, 8, 8), width=16, depth=2), steps=1),
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.5),
    )

    class Watch(L.Callback):
        def on_train_start(self, trainer, module):
            data.setup()
            self.noise = accuracy(data, module.synthetic.whole())

        def on_train_batch_end(self, trainer, *_):
            losses.append(trainer.callback_metrics["train/loss"].item())

    watch = Watch()
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=40, max_epochs=-1, callbacks=[watch], **off)
    trainer.fit(module, data)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert accuracy(data, module.synthetic.whole()) > max(0.5, 2 * watch.noise)
