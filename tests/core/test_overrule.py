import copy

import pytest
import torch
from lightning.pytorch import Trainer

from lit_distill.core.overrule import changed, overrule
from lit_distill.data import Digits
from lit_distill.errors import InputError
from lit_distill.models import MLP
from lit_distill.supervised import Supervised


def setting(name, **arguments):
    return {"class_path": name, "init_args": arguments}


def checkpoint():
    return {
        "hyper_parameters": {
            "optimizer": setting("SGD", lr=0.1, momentum=0.9),
            "scheduler": setting("CosineAnnealingLR", T_max=10),
        },
        "optimizer_states": [{"param_groups": [{"lr": 0.02, "initial_lr": 0.1, "momentum": 0.9}], "state": {}}],
        "lr_schedulers": [{"T_max": 10, "base_lrs": [0.1], "last_epoch": 7}],
    }


def test_nothing_changes_where_nothing_differs():
    saved = checkpoint()
    overrule(saved, copy.deepcopy(saved["hyper_parameters"]))
    assert saved == checkpoint()


def test_what_differs_wins():
    saved = checkpoint()
    now = {
        "optimizer": setting("SGD", lr=0.2, momentum=0.8),
        "scheduler": setting("CosineAnnealingLR", T_max=20),
    }
    overrule(saved, now)
    assert saved["optimizer_states"][0]["param_groups"] == [{"lr": 0.04, "initial_lr": 0.2, "momentum": 0.8}]
    assert saved["lr_schedulers"] == [{"T_max": 20, "base_lrs": [0.2], "last_epoch": 7}]


@pytest.mark.parametrize("now", [None, setting("Adam", lr=0.2), torch.optim.SGD])
def test_another_class_or_a_callable_is_not_compared(now):
    assert changed(setting("SGD", lr=0.1), now) == {}


def test_a_checkpoint_without_settings_is_left_alone():
    saved = {"optimizer_states": [{"param_groups": [{"lr": 0.1}]}]}
    overrule(saved, {"optimizer": setting("SGD", lr=0.2)})
    assert saved["optimizer_states"][0]["param_groups"] == [{"lr": 0.1}]


def trainer():
    return Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)


def test_a_student_of_too_few_classes_and_a_refused_optimizer_are_one_line():
    student = MLP(input_shape=(1, 8, 8), num_classes=7)
    with pytest.raises(InputError, match="student: answers 7 classes, and the data has 10"):
        trainer().fit(Supervised(student=student, optimizer=torch.optim.SGD), datamodule=Digits())
    student = MLP(input_shape=(1, 8, 8), num_classes=10)
    module = Supervised(student=student, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=-1))
    with pytest.raises(InputError, match="optimizer: Invalid learning rate: -1"):
        trainer().fit(module, datamodule=Digits())
