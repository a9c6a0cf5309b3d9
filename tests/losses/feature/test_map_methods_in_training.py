"""Terms on maps as users meet them: in a Distiller, between networks of many kinds, with no layer named."""

import pytest
import torch

from lit_distill.errors import InputError
from lit_distill.losses import CATKD, CWD, ICKD, MGD, PKD, WKDF

from .test_projected_terms import module, value

TERMS = {kind.__name__: kind for kind in (CWD, PKD, MGD, ICKD, CATKD, WKDF)}
terms = pytest.mark.parametrize("kind", TERMS.values(), ids=TERMS)


@terms
@pytest.mark.parametrize(
    ("student", "teacher"),
    [("convnet", "resnet"), ("resnet", "convnet"), ("vit", "resnet"), ("convnet", "vit"), ("resnet", "two")],
)
def test_between_networks_with_no_layer_named(kind, student, teacher):
    made = module(kind, student, teacher, member="a" if teacher == "two" else None)
    loss = value(made)
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    assert all(parameter.grad.isfinite().all() for parameter in made.losses.parameters())
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in made.student.parameters())
    assert all(parameter.grad is None for parameter in made.teacher.parameters())


@pytest.mark.parametrize("kind", [CWD, PKD, MGD, ICKD, WKDF])
def test_parameters_train_with_the_student(kind):
    made = module(kind)
    in_optimizer = {id(p) for group in made.configure_optimizers().param_groups for p in group["params"]}
    own = list(made.losses.parameters())
    assert own
    assert all(id(parameter) in in_optimizer for parameter in own)
    assert not {id(parameter) for parameter in own} & {id(p) for p in made.teacher.parameters()}


def test_nothing_is_learnt_where_channels_are_equal():
    for kind in (CWD, PKD):
        assert not list(module(kind, "resnet", "resnet").losses.parameters())


@terms
def test_a_member_of_an_ensemble_teaches_as_it_does_alone(kind):
    alone, one_of_two = module(kind), module(kind, teacher="two", member="b")
    one_of_two.student.load_state_dict(alone.student.state_dict())
    one_of_two.losses.load_state_dict(alone.losses.state_dict())
    one_of_two.teacher.module.members["b"].load_state_dict(alone.teacher.module.state_dict())
    torch.testing.assert_close(value(one_of_two), value(alone))


@terms
def test_a_module_restored_from_its_state_goes_on(kind):
    made, other = module(kind), module(kind)
    value(made)
    other.load_state_dict(made.state_dict())
    other.teacher.load_state_dict(made.teacher.state_dict())
    torch.testing.assert_close(value(other, seed=1), value(made, seed=1), rtol=0, atol=0)


@terms
def test_under_autocast(kind):
    exact, given = (module(kind) for _ in range(2))  # two, which draw the same mask
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = value(given)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, value(exact), rtol=5e-2, atol=0)


def test_a_map_that_the_classifier_does_not_take_is_refused():
    with pytest.raises(InputError, match=r"layers must be a map \(B, \d+, H, W\), as the classifier takes it, got"):
        value(module(CATKD, "mobilenet", "resnet"))
