import copy

import pytest
import torch
from torch import nn

from lit_distill.core.frozen import Frozen


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.teacher = Frozen(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()))


def test_state_dict_holds_the_student_alone_and_loads_strictly():
    saved, other = Pair(), Pair()
    kept = copy.deepcopy(other.teacher.module.state_dict())
    assert all(key.startswith("student.") for key in saved.state_dict())
    other.load_state_dict(saved.state_dict(), strict=True)
    assert torch.equal(other.student[0].weight, saved.student[0].weight)
    for key, value in other.teacher.module.state_dict().items():
        assert torch.equal(value, kept[key])


def test_strict_loading_still_finds_a_missing_student_key():
    state = Pair().state_dict()
    del state["student.0.weight"]
    with pytest.raises(RuntimeError, match=r"student\.0\.weight"):
        Pair().load_state_dict(state)


def test_nothing_puts_it_in_train_mode_or_asks_for_gradients():
    pair = Pair().train()
    assert pair.student.training
    assert not any(module.training for module in pair.teacher.modules())
    assert not any(p.requires_grad for p in pair.teacher.parameters())
    assert not pair.teacher(torch.ones(2, 3, requires_grad=True)).requires_grad


def test_running_statistics_do_not_drift():
    pair = Pair().train()
    before = pair.teacher.module[1].running_mean.clone()
    pair.teacher(torch.randn(8, 3) + 5)
    assert torch.equal(pair.teacher.module[1].running_mean, before)


def test_deepcopy_shares_it_and_an_average_leaves_it_alone():
    pair = Pair()
    averaged = torch.optim.swa_utils.AveragedModel(pair)
    assert averaged.module.teacher is pair.teacher
    averaged.update_parameters(pair)
    assert not [key for key in averaged.state_dict() if "teacher" in key]


def test_it_moves_with_its_parent():
    assert next(Pair().double().teacher.parameters()).dtype == torch.float64
