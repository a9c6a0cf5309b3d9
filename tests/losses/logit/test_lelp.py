import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import LELP
from lit_distill.losses.logit import kd, lelp, subclass_projections
from lit_distill.models import MLP, Ensemble

CLASSES, SUBCLASSES, WIDE = 3, 2, 7


def both(batch=5):
    """Logits of the student and its subclasses, logits of the teacher and its coordinates."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(batch, CLASSES, *shape, generator=generator, dtype=torch.float64)

    return draw().requires_grad_(), draw(SUBCLASSES).requires_grad_(), draw(), draw(SUBCLASSES)


def sample(n=60, seed=0, scale=None):
    """Embeddings, labels and a classifier."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.2, 3, WIDE) if scale is None else scale
    embeddings = 5 + scale * torch.randn(n, WIDE, generator=generator)
    classifier = torch.randn(CLASSES, WIDE, generator=generator)
    return embeddings.double(), torch.arange(n) % CLASSES, classifier.double()


def test_divergence_over_the_subclasses_of_all_classes():
    student, split, teacher, coordinates = both()
    value = lelp(student, split, teacher, coordinates, temperature=2.0, sharpness=3.0)
    p = (teacher / 2).softmax(1).unsqueeze(2) * (3 * coordinates).softmax(2)
    q = (student / 2).softmax(1).unsqueeze(2) * (split / 2).softmax(2)
    torch.testing.assert_close(value, 4 * (p * (p / q).log()).sum((1, 2)).mean())


def test_one_head_whose_subclasses_sum_to_classes_is_a_case_of_it():
    _, one_head, teacher, coordinates = both()
    p = (teacher.log_softmax(1).unsqueeze(2) + coordinates.log_softmax(2)).flatten(1)
    expected = F.kl_div(one_head.flatten(1).log_softmax(1), p.exp(), reduction="batchmean")
    value = lelp(one_head.logsumexp(2), one_head, teacher, coordinates, temperature=1.0)
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(loss, one_head)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn():
    _, _, teacher, coordinates = both()
    student, split = teacher.clone().requires_grad_(), (6 * coordinates + 1).requires_grad_()
    value = lelp(student, split, teacher, coordinates, temperature=3.0, sharpness=2.0)
    gradients = torch.autograd.grad(value, (student, split))
    for zero in (value, *gradients):
        torch.testing.assert_close(zero, torch.zeros_like(zero))


def test_one_subclass_is_kd():
    student, split, teacher, coordinates = both()
    value = lelp(student, split[..., :1], teacher, coordinates[..., :1], temperature=3.0)
    torch.testing.assert_close(value, kd(student, teacher, 3.0))


def test_gradient():
    student, split, teacher, coordinates = both()
    assert torch.autograd.gradcheck(lambda s, a: lelp(s, a, teacher, coordinates, 2.0, 3.0), (student, split))


def test_a_temperature_can_be_learnt():
    student, split, teacher, coordinates = both()
    temperature = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: lelp(student, split, teacher, coordinates, t), temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_extreme_logits(dtype):
    far = 1e4 * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 0.0, 1.0]])
    wide = torch.stack([far, -far], 2)
    for sign in (1, -1):
        student, split = ((sign * x).to(dtype).requires_grad_() for x in (far, wide))
        value = lelp(student, split, far.roll(1, 1).to(dtype), wide.to(dtype))
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (student, split)))


def test_projections_span_the_principal_components_beside_the_logits():
    embeddings, labels, classifier = sample()
    v, offset = subclass_projections(embeddings, labels, classifier, SUBCLASSES)
    null = torch.eye(WIDE).double() - torch.linalg.pinv(classifier) @ classifier
    torch.testing.assert_close(v @ classifier.T, torch.zeros(CLASSES, SUBCLASSES, CLASSES).double())
    for c in range(CLASSES):
        rows = embeddings[labels == c]
        covariance = (rows @ null).T.cov(correction=0)
        components = torch.linalg.eigh(covariance).eigenvectors[:, -SUBCLASSES:]
        gram = v[c] @ v[c].T
        torch.testing.assert_close(v[c].T @ torch.linalg.inv(gram) @ v[c], components @ components.T)
        torch.testing.assert_close(gram, gram[0, 0] * torch.eye(SUBCLASSES).double())
        coordinates = rows @ v[c].T + offset[c]
        torch.testing.assert_close(coordinates.mean(0), torch.zeros(SUBCLASSES).double())
        torch.testing.assert_close(coordinates.var(0, correction=0).mean(), torch.tensor(1.0).double())


def test_the_rotation_equalises_variances_in_expectation():
    embeddings, labels, classifier = sample()
    over_seeds = []
    for seed in range(300):
        v, _ = subclass_projections(embeddings, labels, classifier, SUBCLASSES, seed)
        over_seeds.append((embeddings[labels == 0] @ v[0].T).var(0, correction=0))
    torch.testing.assert_close(torch.stack(over_seeds).mean(0), torch.ones(2).double(), rtol=0, atol=0.1)
    assert torch.stack(over_seeds).std(0).min() > 0.1
    again = subclass_projections(embeddings, labels, classifier, SUBCLASSES, seed=299)[0]
    assert torch.equal(again, v)


def test_neither_scale_nor_origin_of_the_embedding_matters():
    embeddings, labels, classifier = sample()
    h = embeddings[:4]
    v, offset = subclass_projections(embeddings, labels, classifier, SUBCLASSES)
    v_moved, offset_moved = subclass_projections(50 * embeddings - 7, labels, classifier, SUBCLASSES)
    torch.testing.assert_close((50 * h - 7) @ v_moved[0].T + offset_moved[0], h @ v[0].T + offset[0])


def test_classes_with_few_samples():
    embeddings, _, classifier = sample()
    rows = torch.stack([embeddings[0], embeddings[0], *embeddings[1:3]])
    v, offset = subclass_projections(rows, torch.tensor([0, 0, 1, 1]), classifier, 4)
    assert v.isfinite().all()
    for nothing in (v[0], v[2], offset[0], offset[2]):  # two equal samples, and no sample
        assert torch.equal(nothing, torch.zeros_like(nothing))
    assert torch.linalg.matrix_rank(v[1]) == 1
    coordinates = rows[2:] @ v[1].T + offset[1]
    torch.testing.assert_close(coordinates.square().mean(), torch.tensor(1.0).double())


def test_embeddings_that_do_not_differ_beside_the_logits():
    _, labels, classifier = sample()
    embeddings = (torch.randn(60, CLASSES) @ classifier.float()).double()
    v, offset = subclass_projections(embeddings.float(), labels, classifier.float(), SUBCLASSES)
    assert not v.any()
    assert not offset.any()
    assert not subclass_projections(0 * embeddings, labels, classifier, SUBCLASSES)[0].any()


def test_a_classifier_that_sees_everything():
    embeddings, labels, _ = sample()
    message = "classifier must be one that sees fewer directions than the embedding has"
    with pytest.raises(InputError, match=message):
        subclass_projections(embeddings, labels, torch.eye(WIDE).double(), SUBCLASSES)
    network = nn.ModuleDict({"fc": nn.Linear(4, 4)})
    with pytest.raises(InputError, match=message):
        LELP(layer="a", classifier="fc").attach(network, network)


def made(**given):
    torch.manual_seed(0)
    loss = LELP(layer="last", classifier="fc", **{"subclasses": SUBCLASSES, "samples": 8, **given})
    network = nn.ModuleDict({"fc": nn.Linear(WIDE, CLASSES)})
    loss.attach(network, network)
    outputs = Outputs(torch.zeros(2, CLASSES), {"last": torch.zeros(2, 4), "fc:input": torch.zeros(2, WIDE)})
    loss.build(outputs, outputs)
    return loss


def batches(n, size=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        h = torch.randn(size, WIDE, generator=generator)
        logits, target = torch.randn(2, size, CLASSES, generator=generator), torch.randint(3, (size,))
        yield Outputs(logits[0], {"last": h[:, :4]}), Outputs(logits[1], {"fc:input": h}), target


def test_projections_come_from_the_first_samples_of_training():
    loss, seen = made(), []
    for i, (student, teacher, target) in enumerate(batches(5)):
        value = loss(student, teacher, target)
        seen.append((teacher.features["fc:input"], target))
        assert loss.fitted == (i >= 2)
        split = loss.head(student.features["last"]).view(3, CLASSES, SUBCLASSES)
        h, y = (torch.cat(parts)[:8] for parts in zip(*seen, strict=True))
        if i < 2:
            coordinates = torch.zeros(3, CLASSES, SUBCLASSES)
        else:
            v, offset = subclass_projections(h, y, loss.classifier_weight, SUBCLASSES)
            coordinates = torch.einsum("bd,csd->bcs", teacher.features["fc:input"], v) + offset
        torch.testing.assert_close(value, lelp(student.logits, split, teacher.logits, coordinates))


def test_before_training_at_once():
    loss = made()
    (_, teacher, target) = next(batches(1, size=30))
    loss.fit(teacher.features["fc:input"], target)
    projections = loss.projections.clone()
    for said in batches(4):
        loss(*said)
    assert torch.equal(loss.projections, projections)
    v, _ = subclass_projections(teacher.features["fc:input"], target, loss.classifier_weight, SUBCLASSES)
    assert torch.equal(projections, v)


def test_validation_is_no_training():
    loss = made().eval()
    for said in batches(4):
        loss(*said)
    assert not loss.fitted
    assert loss.seen == 0


def test_every_parameter_has_a_gradient_before_and_after():
    loss = made()
    for said in batches(4):
        loss.zero_grad()
        loss(*said).backward()
        assert all(p.grad.abs().max() > 0 for p in loss.parameters())


@pytest.mark.parametrize("steps", [1, 4])
def test_a_resumed_run_continues(steps):
    whole, killed = made(), made()
    every = list(batches(6))
    values = [whole(*said) for said in every]
    for said in every[:steps]:
        killed(*said)
    resumed = made(seed=0)
    resumed.load_state_dict(copy.deepcopy(killed.state_dict()))
    torch.testing.assert_close([resumed(*said) for said in every[steps:]], values[steps:], rtol=0, atol=0)


def test_an_earlier_state_is_an_earlier_state():
    loss, every = made(), list(batches(6))
    start = copy.deepcopy(loss.state_dict())
    values = [loss(*said) for said in every]
    assert loss.fitted
    loss.load_state_dict(start)
    torch.testing.assert_close([loss(*said) for said in every], values, rtol=0, atol=0)


def test_a_mixed_label_counts_as_its_likeliest_class():
    hard, mixed = made(), made()
    for student, teacher, target in batches(4):
        hard(student, teacher, target)
        mixed(student, teacher, 0.6 * F.one_hot(target, CLASSES) + 0.4 / CLASSES)
    assert torch.equal(hard.projections, mixed.projections)


def test_half_precision_is_raised():
    exact, given = made(), made()
    for student, teacher, target in batches(4):
        value = exact(student, teacher, target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = given(student, teacher, target)
    assert rough.dtype is torch.float32
    assert torch.equal(exact.projections, given.projections)
    torch.testing.assert_close(rough, value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_where_all_of_training_has_another_precision(precision):
    loss = made().to(precision)
    for student, teacher, target in batches(4):
        student, teacher = (
            Outputs(o.logits.to(precision), {k: v.to(precision) for k, v in o.features.items()})
            for o in (student, teacher)
        )
        value = loss(student, teacher, target)
    assert loss.fitted
    assert loss.projections.abs().max() > 0
    assert value.isfinite()


@pytest.mark.parametrize("ensemble", [False, True])
def test_within_a_distiller(ensemble):
    network = MLP(hidden=(24,))
    path, teacher = ("members.a.fc", Ensemble({"a": network, "b": MLP()})) if ensemble else ("fc", network)
    module = Distiller(
        student=MLP(hidden=(16, 12)),
        teacher=teacher,
        losses={"lelp": LELP(layer="fc:input", classifier=path, subclasses=3, samples=32, temperature=2.0)},
        optimizer=torch.optim.SGD,
        input_shape=(1, 8, 8),
    )
    term, x = module.losses["lelp"], torch.randn(32, 1, 8, 8)
    assert torch.equal(term.classifier_weight, network.fc.weight)
    _, terms = module.terms((x, torch.arange(32) % 10))
    assert term.fitted
    embedding = network.blocks(x.flatten(1))
    coordinates = torch.einsum("bd,csd->bcs", embedding, term.projections) + term.offsets
    hidden = module.student.blocks(x.flatten(1))
    split = term.head(hidden).view(32, 10, 3)
    torch.testing.assert_close(
        terms["lelp"], lelp(module.student.fc(hidden), split, module.teacher(x), coordinates, 2.0)
    )
    terms["lelp"].backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


@pytest.mark.distributed
def test_two_ranks_equal_one(tmp_path):
    script = str(Path(__file__).with_name("lelp_ranks.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(tmp_path / "meeting")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)


def test_the_embedding_is_a_vector():
    loss, network = LELP(layer="last", classifier="fc"), nn.ModuleDict({"fc": nn.Linear(WIDE, CLASSES)})
    loss.attach(network, network)
    tokens = Outputs(torch.zeros(2, CLASSES), {"last": torch.zeros(2, 4), "fc:input": torch.zeros(2, 5, WIDE)})
    with pytest.raises(InputError, match=r"classifier must be a layer that takes vectors \(B, D\), got \(2, 5, 7\)"):
        loss.build(tokens, tokens)


def test_the_classifier_is_linear():
    network = nn.ModuleDict({"fc": nn.ReLU(), "head": nn.Linear(WIDE, CLASSES)})
    with pytest.raises(InputError, match="classifier must be the path of a linear layer"):
        LELP(layer="last", classifier="fc").attach(network, network)


def test_it_must_be_built():
    (said,) = batches(1)
    with pytest.raises(InputError, match="LELP must be built with the outputs of a dry run before it is called"):
        LELP(layer="last", classifier="fc")(*said)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"subclasses": 0}, "subclasses must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"sharpness": 0.0}, "sharpness must be positive, got 0.0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        LELP(**{"layer": "a", "classifier": "b", **given})
