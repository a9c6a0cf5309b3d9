"""Defensive distillation: what it does to attacks that follow the gradient of cross entropy, and what it does not."""

import warnings

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_distill import KD, CrossEntropy, Distiller, InputError, Outputs, Supervised
from lit_distill.data import Digits
from lit_distill.models import MLP

T = 20.0


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():
        # it imports a name that scipy has moved
        warnings.simplefilter("ignore", DeprecationWarning)
        return pytest.importorskip("foolbox")


def test_temperature_of_cross_entropy():
    logits = 30 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target, outputs = torch.tensor([0, 1, 2, 3, 4, 0]), Outputs(logits)
    tempered = CrossEntropy(temperature=T)
    torch.testing.assert_close(tempered(outputs, outputs, target), F.cross_entropy(logits / T, target))
    torch.testing.assert_close(tempered(outputs, outputs, target), CrossEntropy()(Outputs(logits / T), None, target))
    learnt = torch.tensor(T, requires_grad=True)
    tempered.temperature = learnt
    tempered(outputs, outputs, target).backward()
    assert learnt.grad.isfinite()
    assert learnt.grad != 0
    with pytest.raises(InputError, match="temperature must be positive, got 0"):
        CrossEntropy(temperature=0)


def test_soft_labels_are_those_of_kd():
    """The students of Papernot et al. learn cross entropy with soft labels: the gradient of KD but for T squared."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 30 * torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    theirs = CrossEntropy(temperature=T)(Outputs(student), None, (teacher / T).softmax(-1))
    ours = KD(temperature=T)(Outputs(student), Outputs(teacher), torch.empty(0))
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (T**2 * theirs, ours)]
    torch.testing.assert_close(*gradients)


def mlp():
    L.seed_everything(0, verbose=False)
    return MLP(input_shape=(1, 8, 8), hidden=(64,))


def fitted(module):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(max_epochs=15, limit_val_batches=0, num_sanity_val_steps=0, accelerator="cpu", **quiet)
    trainer.fit(module, Digits())
    return module.student.eval()


def adam(parameters):
    return torch.optim.Adam(parameters, lr=5e-3)


@pytest.fixture(scope="module")
def networks():
    """One architecture, trained on labels as usual and by defensive distillation."""
    plain = fitted(Supervised(student=mlp(), optimizer=adam))
    teacher = fitted(Supervised(student=mlp(), optimizer=adam, temperature=T))
    distilled = fitted(Distiller(student=mlp(), teacher=teacher, losses={"kd": KD(temperature=T)}, optimizer=adam))
    return {"plain": plain, "distilled": distilled}


class Divided(nn.Module):
    def __init__(self, network, by):
        super().__init__()
        self.network, self.by = network, by

    def forward(self, x):
        return self.network(x) / self.by


@pytest.fixture(scope="module")
def attacked(foolbox, networks):
    """The networks, with their logits divided or not, as the library wants them; and images with their labels."""
    test = Digits().read_test()

    def model(name, by=1.0):
        data = {"mean": list(Digits.mean), "std": list(Digits.std), "axis": -3}
        network = Divided(networks[name], by).eval()
        return foolbox.PyTorchModel(network, bounds=(0, 1), preprocessing=data, device="cpu")

    return model, test.x[:100] / 255, test.targets[:100]


@pytest.mark.learns
def test_fgsm_finds_less_but_only_because_the_gradient_is_hidden(foolbox, attacked):
    model, x, y = attacked
    right = {}
    for name, by in (("plain", 1.0), ("distilled", 1.0), ("distilled", T)):
        assert (model(name, by)(x).argmax(-1) == y).float().mean() > 0.9
        _, _, fooled = foolbox.attacks.FGSM()(model(name, by), x, y, epsilons=0.2)
        right[name, by] = (~fooled).float().mean()
    assert right["distilled", 1.0] > right["plain", 1.0] + 0.2
    assert right["distilled", T] < (right["plain", 1.0] + right["distilled", 1.0]) / 2


@pytest.mark.learns
def test_carlini_and_wagner_fool_it_all_the_same(foolbox, attacked):
    model, x, y = attacked
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=50, stepsize=0.05, initial_const=1.0)
    distance = {}
    for name in ("plain", "distilled"):
        _, found, fooled = attack(model(name), x, y, epsilons=None)
        assert fooled.float().mean() > 0.95
        assert (model(name)(found).argmax(-1) != y)[fooled].all()
        distance[name] = (found - x)[fooled].flatten(1).norm(dim=1).median()
    assert distance["distilled"] < 1.5 * distance["plain"]
