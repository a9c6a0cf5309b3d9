import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch.nn import functional as F

from lit_distill import presets
from lit_distill.errors import InputError
from lit_distill.losses import CrossEntropy, DistillLoss, OnViews, PairedViews

from .common import both, call, kd, value_and_gradient


@pytest.mark.parametrize("views", [2, 4])
def test_first_and_others_make_the_whole(views):
    student, teacher, target = both()
    size = 8 // views
    first, others = (OnViews(kd(), views, which) for which in ("first", "others"))
    torch.testing.assert_close(
        call(first, student, teacher, target), call(kd(), student[:size], teacher[:size], target[:size])
    )
    torch.testing.assert_close(
        call(others, student, teacher, target), call(kd(), student[size:], teacher[size:], target[size:])
    )
    gradients = [value_and_gradient(loss, student, teacher, target)[1] for loss in (first, others, kd())]
    torch.testing.assert_close((gradients[0] + (views - 1) * gradients[1]) / views, gradients[2])


@pytest.mark.parametrize("soft", [False, True])
def test_labels_go_with_their_views(soft):
    student, teacher, target = both()
    if soft:
        target = torch.rand(8, 7).softmax(-1).double()
    value = call(OnViews(CrossEntropy(), which="others"), student, teacher, target)
    torch.testing.assert_close(value, F.cross_entropy(student[4:], target[4:]))


def test_strong_views_of_three():
    student, teacher, target = (torch.cat([x, x[:4]]) for x in both())
    value = call(OnViews(PairedViews(kd()), 3, "others"), student, teacher, target)
    torch.testing.assert_close(value, call(kd(), student[8:], teacher[4:8], target[8:]))


def objective(name):
    """The terms of a preset."""
    settings = yaml.safe_load(presets.find(name).read_text(encoding="utf-8"))["model"]["init_args"]["losses"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--losses", type=dict[str, DistillLoss])
    return parser.instantiate(parser.parse_object({"losses": settings})).losses


def softened(student, teacher):
    """KD at temperature 4, written out."""
    p, log_q = (teacher / 4).softmax(-1), (student / 4).log_softmax(-1)
    return 16 * (p * (p.log() - log_q)).sum(-1).mean()


def test_cutmixpick_is_what_its_authors_train_on():
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 24, 10, generator=generator, dtype=torch.float64)
    label = torch.rand(24, 10, generator=generator).double().softmax(-1)
    label[:8] = F.one_hot(torch.randint(10, (8,), generator=generator), 10)
    own = sum(term.weight * call(term, student, teacher, label) for term in objective("cutmixpick_digits").values())
    # two mixtures of each of 8 images, of which 8 are picked
    pool = teacher[8:].softmax(-1)
    picked = 8 + (-pool * pool.log()).sum(-1).argsort()[-8:]
    theirs = 0.1 * F.cross_entropy(student[:8], label[:8].argmax(-1)) + 0.9 * (
        softened(student[:8], teacher[:8]) + softened(student[picked], teacher[picked])
    )
    torch.testing.assert_close(own, theirs)


def test_mix_kd_is_what_its_authors_train_on():
    student, teacher, _ = both()
    label = torch.rand(8, 7, generator=torch.Generator().manual_seed(0)).double().softmax(-1)
    own = sum(term.weight * call(term, student, teacher, label) for term in objective("mixupkd_digits").values())
    # logits divided by their standard deviation over the classes, of each sample, in both terms
    log_q = (student / student.std(-1, keepdim=True)).log_softmax(-1)
    p = (teacher / teacher.std(-1, keepdim=True)).softmax(-1)
    theirs = 0.1 * -(label * log_q).sum(-1).mean() + 0.9 * (p * (p.log() - log_q)).sum(-1).mean()
    torch.testing.assert_close(own, theirs, rtol=1e-6, atol=0)  # 1e-7 is added to the standard deviation


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"views": 1}, "views must be at least 2, got 1"),
        ({"which": "second"}, "which must be first or others, got 'second'"),
    ],
)
def test_bad_hyperparameters(given, message):
    with pytest.raises(InputError, match=message):
        OnViews(kd(), **given)


def test_a_batch_of_other_views():
    with pytest.raises(InputError, match="batch must be a multiple of 3 views, got 8 samples"):
        call(OnViews(kd(), 3), *both())
