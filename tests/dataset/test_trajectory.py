import math

import pytest
import torch
from torch.nn.functional import softplus

from lit_distill.data import ClassBatches, Digits
from lit_distill.dataset import (
    AST,
    DATM,
    DD,
    MTT,
    TESLA,
    AveragedPixels,
    LearnedLogits,
    Pixels,
    RepresentativePixels,
)
from lit_distill.dataset.networks.experts import Trajectory
from lit_distill.dataset.objectives.aligned import agreed_logits
from lit_distill.dataset.objectives.smooth import perturbed
from lit_distill.dataset.objectives.trajectory import normalised_distance
from lit_distill.dataset.objectives.unrolled import descent, ordered
from lit_distill.dataset.step import Labelled, Purpose, generator
from lit_distill.dataset.unroll import Stateless, batches_of, unroll
from lit_distill.errors import InputError
from lit_distill.models import CondensationConvNet

from ..distributed.ranks import launch, run
from . import trajectory_jobs as jobs
from .steps import pixels, step


def network(**arguments):
    return Stateless(CondensationConvNet((1, 8, 8), 3, 4, 2, **arguments))


def trajectory(epochs=2, share=1.0, number=0):
    torch.manual_seed(number)
    net = network()
    weights = net.flat() + 0.1 * torch.randn(epochs + 1, 1).cumsum(0) * torch.randn(net.flat().shape)
    return Trajectory(net, weights, 0, 1, number, share)


def grown(method, synthetic, *trajectories, number=0, **given):
    loss = method(step(synthetic, number, **given), list(trajectories))
    wanted = [p for p in (*synthetic.parameters(), *method.parameters()) if p.requires_grad]
    return loss, torch.autograd.grad(loss, wanted)


def test_a_student_on_the_experts_path_has_no_distance():
    synthetic, method = pixels(), MTT(steps=3, step_size=0.1)
    labelled, piece = synthetic.whole(), trajectory()
    images, targets = labelled.images.flatten(0, 1), labelled.targets.flatten(0, 1)
    given = step(synthetic)
    batches = batches_of(len(images), None, 3, given.generator(Purpose.BATCH, 0))
    target = unroll(descent(piece.network), piece.start, images, targets, method.rate, batches).detach()
    loss = method(given, [piece._replace(weights=torch.stack([piece.start, target]))])
    assert loss < 1e-10


def test_a_student_that_stays_has_a_distance_of_one():
    start, target = torch.randn(2, 10)
    assert normalised_distance(start, start, target) == 1
    loss = MTT(steps=2, step_size=1e-12)(step(pixels()), [trajectory()])
    torch.testing.assert_close(loss, torch.tensor([1.0]).squeeze())


@pytest.mark.parametrize("make", [MTT, AST], ids=["mtt", "ast"])
def test_routes_are_equal(make):
    synthetic, piece = pixels(), trajectory()
    methods = [make(steps=4, batch_size=4, route=route) for route in ("full", "recompute")]
    grads = [grown(method, synthetic, piece)[1] for method in methods]
    for full, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, full, rtol=1e-4, atol=1e-6 * float(full.abs().max()))


def test_the_mean_of_several_experts():
    method, synthetic = MTT(steps=3), pixels()
    one = [grown(method, synthetic, trajectory(number=i)) for i in (0, 1)]
    both = grown(method, synthetic, *(trajectory(share=0.5, number=i) for i in (0, 1)))
    torch.testing.assert_close(both[0], (one[0][0] + one[1][0]) / 2)
    for found, first, second in zip(both[1], one[0][1], one[1][1], strict=True):
        torch.testing.assert_close(found, (first + second) / 2)


def test_step_sizes_have_a_learning_rate_of_their_own():
    (group,) = MTT(step_size_lr=3e-4).parameter_groups()
    assert group["lr"] == 3e-4
    dd = DD()
    dd.build(2)
    assert dd.parameter_groups() == [{"params": [dd.raw]}]
    images, labels = pixels(kind=LearnedLogits, label_lr=7.0).parameter_groups()
    assert "lr" not in images
    assert (labels["lr"], labels["momentum"]) == (7.0, 0.9)


@pytest.mark.parametrize("size", [math.nan, math.inf])
def test_a_step_size_that_is_no_number(size):
    method = MTT(steps=2)
    with torch.no_grad():
        method.rate.fill_(size)
    with pytest.raises(
        InputError, match=f"step_size is {size} after 7 steps; lower step_size_lr or the optimizer's lr"
    ):
        method(step(pixels(), number=7), [trajectory()])


@pytest.mark.parametrize("size", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("make", [MTT, TESLA, DATM, AST, DD])
def test_first_step_sizes(make, size):
    with pytest.raises(InputError, match=f"step_size must be positive and finite, not {size}"):
        make(step_size=size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MTT(steps=0), "steps must be at least 1, not 0"),
        (lambda: MTT(batch_size=0), "batch_size must be at least 1, not 0"),
        (lambda: DATM(threshold=0), "threshold must be positive, not 0"),
        (lambda: AST(middle="some"), "middle: 'some' given; accepted are all, growing, none"),
        (lambda: AST(momentum=1.0), r"momentum must be in \[0, 1\) and perturb not negative"),
        (lambda: DD(epochs=0), "epochs must be at least 1, not 0"),
        (lambda: LearnedLogits(label_lr=-1.0), "label_lr must not be negative"),
        (lambda: AveragedPixels(decay=1.0), r"decay must be in \[0, 1\), not 1.0"),
        (
            lambda: AST(steps=1)(step(pixels()), [trajectory()]),
            "steps must be at least the epochs of a piece, 2, not 1",
        ),
        (lambda: DD(images_per_step=2).build(3), "images_per_step must divide images_per_class, 3, which 2 does not"),
        (lambda: network(norm="batch"), "network: blocks.0.norm .BatchNorm2d. is no function of weights alone"),
    ],
)
def test_wrong_input(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_labels_of_the_expert():
    synthetic, piece = pixels(), trajectory()
    labels = TESLA(soft_labels=True).targets(synthetic.whole(), piece)
    torch.testing.assert_close(labels.sum(-1), torch.ones(3, 2))
    assert torch.equal(TESLA().targets(synthetic.whole(), piece), synthetic.whole().targets)
    with torch.no_grad():
        expected = piece.network(piece.target, synthetic.images[1]).softmax(1)
    torch.testing.assert_close(labels[1], expected)


def test_a_step_above_the_threshold_moves_nothing():
    synthetic, piece = pixels(kind=LearnedLogits), trajectory()
    synthetic.logits.data.normal_()
    method = DATM(steps=2)
    optimizer = torch.optim.SGD([*synthetic.parameters(), *method.parameters()], lr=1.0, momentum=0.5)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for threshold, moves in ((1e9, True), (1e-9, False), (1e9, True)):
        method.threshold = threshold
        before = [p.detach().clone() for p in parameters]
        optimizer.zero_grad()
        loss = method(step(synthetic), [piece])
        loss.backward()
        method.before_update(parameters)
        optimizer.step()
        assert all((not torch.equal(p, was)) == moves for p, was in zip(parameters, before, strict=True))


def test_experts_above_the_threshold_are_left_out():
    synthetic, pieces = pixels(kind=LearnedLogits), [trajectory(share=0.5, number=i) for i in (0, 1)]
    values = [float(DATM(steps=2)(step(synthetic), [piece]).detach()) * 2 for piece in pieces]
    method = DATM(steps=2, threshold=sum(values) / 2)
    loss, both = grown(method, synthetic, *pieces)
    _, alone = grown(method, synthetic, pieces[values.index(min(values))])
    torch.testing.assert_close(float(loss.detach()), sum(values) / 2)
    for found, expected in zip(both, alone, strict=True):
        torch.testing.assert_close(found, expected)


def test_only_experts_that_are_right_say_something():
    logits = torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]], [[5.0, 1.0]]])
    torch.testing.assert_close(agreed_logits(logits, torch.tensor([0])), torch.tensor([[4.0, 1.0]]))
    assert agreed_logits(logits[1:2], torch.tensor([0])).isnan().all()


def test_first_images_and_labels_of_datm(tmp_path):
    module = jobs.distiller("datm", tmp_path)
    data = ClassBatches(Digits(limit=400), per_class=5)
    data.setup("fit")
    networks, synthetic = module.networks, module.synthetic
    networks.start(data, torch.device("cpu"))
    synthetic.build(10, (1, 8, 8))
    synthetic.start(data, generator(0, Purpose.START))
    module.objective.start(synthetic, networks, data, generator(0, Purpose.START, 1))
    weights = networks.at(-1)
    assert all(torch.equal(a, e[4:5][0]) for a, e in zip(weights, networks.experts, strict=True))
    for c in range(10):
        assert (synthetic.logits[c].argmax(1) == c).all()
        for image, logits in zip(synthetic.images[c], synthetic.logits[c], strict=True):
            assert (data.images_of(c) == image).flatten(1).all(1).any()
            said = [networks.stateless(at, image[None])[0] for at in weights]
            right = torch.stack([answer for answer in said if answer.argmax() == c])
            torch.testing.assert_close(logits, right.mean(0))
    for epoch in (-6, 5):
        with pytest.raises(InputError, match=rf"epoch: {epoch} is none of the experts in .*, which have 4"):
            networks.at(epoch)
    with pytest.raises(InputError, match="DATM takes LearnedLogits and Experts, not Pixels and Experts"):
        module.objective.start(Pixels(), networks, data, generator(0, Purpose.START, 1))


def test_datm_where_all_experts_are_wrong(tmp_path, monkeypatch):
    """The set stays as it began."""
    module = jobs.distiller("datm", tmp_path)
    data = ClassBatches(Digits(limit=400), per_class=5)
    data.setup("fit")
    networks, synthetic = module.networks, module.synthetic
    networks.start(data, torch.device("cpu"))
    synthetic.build(10, (1, 8, 8))
    synthetic.start(data, generator(0, Purpose.START))
    before = {name: value.clone() for name, value in synthetic.state_dict().items()}
    monkeypatch.setattr(networks, "at", lambda epoch: [torch.zeros_like(networks.stateless.flat())])  # says class 0
    module.objective.start(synthetic, networks, data, generator(0, Purpose.START, 1))
    assert not torch.equal(synthetic.logits[0], before["logits"][0])
    torch.testing.assert_close(synthetic.logits[1:], before["logits"][1:], rtol=0, atol=0)
    torch.testing.assert_close(synthetic.images[1:], before["images"][1:], rtol=0, atol=0)
    assert (before["logits"].softmax(-1).amax(-1) - 0.9).abs().max() < 1e-6


def test_perturbed_convolutions():
    weight, noise = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    moved = perturbed(weight, noise, 0.5)
    torch.testing.assert_close((moved / weight - 1).norm(), torch.tensor(0.5))
    assert perturbed(weight.flatten(), noise.flatten(), 0.5).equal(weight.flatten())
    piece, method = trajectory(), AST()
    start = method.moved(step(pixels()), piece)
    assert start.weights[1:].equal(piece.weights[1:])
    changed = {name for name, part in piece.network.parts(start.start - piece.start).items() if part.any()}
    assert changed == {"blocks.0.conv.weight", "blocks.1.conv.weight"}


def test_intermediate_matching_adds_terms():
    given, piece = step(pixels()), trajectory(3)

    def loss(make, **arguments):
        return float(make(steps=6, **arguments)(given, [piece]).detach())

    last, whole, growing = (loss(AST, middle=middle, perturb=0.0) for middle in ("none", "all", "growing"))
    assert last < growing < whole
    assert loss(AST, middle="none", momentum=0.0, balanced=False, perturb=0.0) == loss(MTT)


def test_dd_gradient_equals_a_training_by_hand():
    net = CondensationConvNet((1, 8, 8), 3, 4, 2)
    synthetic, method = pixels(), DD(epochs=2, step_size=0.3)
    method.build(2)
    assert method.step_size() == pytest.approx([0.3] * 4)
    given = step(synthetic)
    loss = method(given, net)
    weights, images = dict(net.named_parameters()), synthetic.images
    for t in range(4):
        answers = torch.func.functional_call(net, weights, (images[:, t % 2],))
        inner = torch.nn.functional.cross_entropy(answers, torch.arange(3))
        grads = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        size = softplus(method.raw[t])
        weights = {name: w - size * g for (name, w), g in zip(weights.items(), grads, strict=True)}
    answers = torch.func.functional_call(net, weights, (given.real.images.flatten(0, 1),))
    expected = torch.nn.functional.cross_entropy(answers, given.real.targets.flatten())
    torch.testing.assert_close(loss, expected)
    wanted = [synthetic.images, method.raw]
    for found, by_hand in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6)


def test_dd_is_a_sum_over_classes():
    net, synthetic, method = CondensationConvNet((1, 8, 8), 3, 4, 2), pixels(), DD(epochs=2)
    method.build(2)
    parts = [method(step(synthetic, classes=classes), net) for classes in ([0, 2], [1])]
    torch.testing.assert_close(sum(parts), method(step(synthetic), net))


def test_the_order_of_dd():
    assert ordered(torch.tensor([[0, 1], [10, 11]])).tolist() == [0, 10, 1, 11]


def test_what_is_kept_is_an_average():
    synthetic = pixels(kind=AveragedPixels, decay=0.75)
    synthetic.average.fill_(1.0)
    synthetic.images.data.fill_(5.0)
    assert synthetic.kept().images.eq(1.0).all()
    synthetic.project()
    assert synthetic.kept().images.eq(2.0).all()
    assert isinstance(synthetic.kept(), Labelled)
    assert synthetic.whole().images.eq(5.0).all()


def test_representative_images_are_real_and_different():
    data = ClassBatches(Digits(limit=200), per_class=5)
    data.setup("fit")
    synthetic = RepresentativePixels(3)
    synthetic.build(10, (1, 8, 8))
    synthetic.start(data, torch.Generator().manual_seed(0))
    for c in range(10):
        real = data.images_of(c)
        places = [(real == image).flatten(1).all(1).nonzero()[0].item() for image in synthetic.images[c]]
        assert len(set(places)) == 3


@pytest.fixture(scope="module", params=["mtt", "datm", "ast", "dd"])
def whole(request, tmp_path_factory):
    return request.param, jobs.fit(tmp_path_factory.mktemp("whole"), request.param)


def test_resumed_equals_uninterrupted(whole, tmp_path):
    method, result = whole
    jobs.fit(tmp_path / "first", method, steps=2)
    resumed = jobs.fit(tmp_path / "rest", method, resume=str(tmp_path / "first/last.ckpt"))
    torch.testing.assert_close(resumed["learned"], result["learned"], rtol=0, atol=0)


@pytest.mark.distributed
def test_two_ranks_equal_one(whole, tmp_path):
    method, result = whole
    for rank in run(jobs.fit, tmp_path, method):
        torch.testing.assert_close(rank["learned"], result["learned"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rank["loss"], result["loss"], rtol=1e-5, atol=1e-6)


@pytest.mark.distributed
def test_more_ranks_than_experts_of_a_step(tmp_path):
    ended = launch(jobs.fit, tmp_path, "mtt", per_step=1, patience=5.0)
    assert set(ended.codes) == {1}
    assert "per_step must be a multiple of the number of processes, 2, not 1" in ended.logs[0]
