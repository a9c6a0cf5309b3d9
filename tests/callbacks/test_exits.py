"""The accuracy of exits, and exits that have learnt."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lit_distill.callbacks import ExitAccuracy
from lit_distill.data import Digits
from lit_distill.distiller import Distiller
from lit_distill.errors import InputError
from lit_distill.losses import BYOT, CrossEntropy, Hierarchical
from lit_distill.models import ConvNet, EarlyExit, MultiExit, resnet8
from lit_distill.supervised import Supervised

SHAPE = (1, 8, 8)


def student():
    torch.manual_seed(0)
    return MultiExit(resnet8(num_classes=10, in_channels=1), {"early": "layer1", "middle": "layer2"}, SHAPE)


def supervised(network):
    return Supervised(student=network, optimizer=torch.optim.Adam, input_shape=SHAPE)


def samples(count=50):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *SHAPE, generator=generator), torch.randint(10, (count,), generator=generator)


def trainer(*callbacks, **kwargs):
    switches = dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"], False)
    return L.Trainer(accelerator="cpu", callbacks=list(callbacks), **switches, **kwargs)


def right(network, x, y):
    """Accuracy of each exit and of the network, in eval mode."""
    with torch.no_grad():
        return (network.eval().answers(x).argmax(-1) == y).float().mean(1).tolist()


@pytest.mark.parametrize("exits", [None, ["exits.early", "exits.middle"]])
def test_it_is_the_accuracy_over_the_whole_set(exits):
    x, y = samples()
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    module = supervised(student())
    run = trainer(ExitAccuracy(exits))
    for stage, evaluate in {"val": run.validate, "test": run.test}.items():
        for _ in range(2):  # the second time begins anew
            (logged,) = evaluate(module, loader, verbose=False)
            measured = [logged[f"{stage}/{name}"] for name in ("acc_early", "acc_middle", "acc")]
            assert measured == pytest.approx(right(module.student, x, y))


def test_an_exit_by_its_path():
    x, y = samples()
    run = trainer(ExitAccuracy(["network.fc"]))
    (logged,) = run.validate(supervised(student()), DataLoader(TensorDataset(x, y), batch_size=16), verbose=False)
    assert logged["val/acc_network.fc"] == logged["val/acc"]


def test_what_cannot_be_measured():
    loader = DataLoader(TensorDataset(*samples(4)), batch_size=4)
    with pytest.raises(InputError, match="exits: not given to ExitAccuracy, and ConvNet is no MultiExit"):
        trainer(ExitAccuracy()).validate(supervised(ConvNet(in_channels=1, depth=2)), loader)
    with pytest.raises(InputError, match=r"the student CifarResNet has no submodule 'exits\.late'"):
        trainer(ExitAccuracy(["exits.late"])).validate(supervised(resnet8(10, 1)), loader)
    other = L.LightningModule()
    other.student = student()
    with pytest.raises(InputError, match="ExitAccuracy needs a module that classifies; LightningModule does not"):
        ExitAccuracy().setup(trainer(), other, "fit")


LOSSES = {
    "byot": lambda: {"ce": CrossEntropy(), "byot": BYOT(exits=["exits.early", "exits.middle"])},
    "hierarchical": lambda: {"ce": Hierarchical(CrossEntropy(), exits={"exits.early": 1, "exits.middle": 2}, depth=3)},
}


@pytest.mark.learns
@pytest.mark.parametrize("losses", LOSSES)
def test_every_exit_learns_and_leaving_early_costs_less(losses):
    L.seed_everything(0, verbose=False)
    module = Distiller(
        student=student(),
        losses=LOSSES[losses](),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        input_shape=SHAPE,
    )
    run, data = trainer(ExitAccuracy(), max_epochs=3), Digits(batch_size=32)
    run.fit(module, data)
    (tested,) = run.test(module, data, verbose=False)
    assert min(tested[f"test/{name}"] for name in ("acc_early", "acc_middle", "acc")) > 0.8

    rows = {"layer1": 0, "layer3": 0}
    for name in rows:
        module.student.network.get_submodule(name).register_forward_hook(
            lambda part, args, output, name=name: rows.update({name: rows[name] + len(output)})
        )
    module.student = EarlyExit(module.student, threshold=0.8)
    (early,) = trainer().test(module, data, verbose=False)
    assert early["test/acc"] > tested["test/acc"] - 0.03
    assert rows["layer3"] < 0.5 * rows["layer1"]
