"""What holds for every term with parameters that are built from the shapes of both networks."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from lit_distill import Distiller
from lit_distill.core.outputs import Outputs
from lit_distill.errors import InputError
from lit_distill.losses import AB, OFD, SRRL, VID, ReviewKD
from lit_distill.models import ConvNet, Ensemble, mobilenet_v2_half, resnet8, shufflenet_v2, vgg8, wrn_16_1

from ...distributed.ranks import run
from . import projected_jobs

TERMS = {kind.__name__: kind for kind in (VID, OFD, AB, ReviewKD, SRRL)}
terms = pytest.mark.parametrize("kind", TERMS.values(), ids=TERMS)
SHAPE = (1, 8, 8)
TARGET = torch.tensor([0, 3, 2, 1])

# Lightning itself, as in tests/distributed/conftest.py
UPSTREAM = ("ignore:.*LeafSpec.*:FutureWarning", "ignore:Found .* in eval mode at the start of training")


def vit():
    return VisionTransformer(img_size=8, patch_size=2, in_chans=1, embed_dim=16, depth=2, num_heads=2, num_classes=10)


def cifar(make):
    return lambda: make(num_classes=10, in_channels=1)


NETWORKS = {
    "convnet": lambda: ConvNet(in_channels=1, width=8, depth=2),
    "resnet": cifar(resnet8),
    "wrn": cifar(wrn_16_1),
    "vgg": cifar(vgg8),
    "mobilenet": cifar(mobilenet_v2_half),
    "shufflenet": cifar(shufflenet_v2),
    "vit": vit,
    "two": lambda: Ensemble({"a": vit(), "b": resnet8(num_classes=10, in_channels=1)}),
}


def module(kind, student="convnet", teacher="resnet", member=None):
    torch.manual_seed(0)
    learner, taught = NETWORKS[student](), NETWORKS[teacher]()
    return Distiller(
        student=learner,
        teacher=taught,
        losses={"it": kind(teacher=member)},
        optimizer=torch.optim.SGD,
        input_shape=SHAPE,
    )


def value(made, seed=0):
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return made.terms((x, TARGET))[1]["it"]


@terms
@pytest.mark.parametrize(
    ("student", "teacher"),
    [("convnet", "resnet"), ("resnet", "convnet"), ("shufflenet", "vgg"), ("mobilenet", "wrn"), ("vit", "resnet")],
)
def test_between_networks_with_no_layer_named(kind, student, teacher):
    made = module(kind, student, teacher)
    loss = value(made)
    loss.backward()
    assert loss.isfinite()
    assert list(made.losses.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in made.losses.parameters())
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in made.student.parameters())
    assert all(parameter.grad is None for parameter in made.teacher.parameters())


@pytest.mark.parametrize("kind", [VID, AB, ReviewKD, SRRL])
def test_a_transformer_teaches(kind):
    made = module(kind, teacher="vit")
    value(made).backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.losses.parameters())


def test_margins_need_a_teacher_with_batch_norm():
    with pytest.raises(InputError, match=r"norms: none found for blocks\.0 of the teacher"):
        module(OFD, teacher="vit")


@terms
def test_parameters_train_with_the_student_and_nothing_of_the_teacher_is_saved(kind):
    made = module(kind)
    own = {name for name, _ in made.losses.named_parameters()}
    in_optimizer = {id(p) for group in made.configure_optimizers().param_groups for p in group["params"]}
    assert own
    assert all(id(parameter) in in_optimizer for parameter in made.losses.parameters())
    assert {name for name in made.state_dict() if not name.startswith("student.")} == {
        f"losses.{name}" for name in made.losses.state_dict()
    }
    assert own <= set(made.losses.state_dict())
    assert not {id(parameter) for parameter in made.losses.parameters()} & {id(p) for p in made.teacher.parameters()}


@terms
def test_the_teacher_stays_in_eval_mode(kind):
    made = module(kind).train()
    before = {name: buffer.clone() for name, buffer in made.teacher.named_buffers()}
    value(made)
    assert not any(part.training for part in made.teacher.modules())
    torch.testing.assert_close(dict(made.teacher.named_buffers()), before, rtol=0, atol=0)


@terms
def test_a_member_of_an_ensemble_teaches_as_it_does_alone(kind):
    alone, one_of_two = module(kind), module(kind, teacher="two", member="b")
    one_of_two.student.load_state_dict(alone.student.state_dict())
    one_of_two.losses.load_state_dict(alone.losses.state_dict())
    one_of_two.teacher.module.members["b"].load_state_dict(alone.teacher.module.state_dict())
    torch.testing.assert_close(value(one_of_two), value(alone))


@terms
def test_under_autocast(kind):
    made = module(kind)
    exact = value(made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = value(made)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, exact, rtol=5e-2, atol=0)


@terms
def test_parameters_are_never_half(kind):
    made = module(kind)
    layers = made.losses["it"].layers
    given = {}
    for network, paths, taps in (
        (made.student, layers, made.taps_student),
        (made.teacher.module, layers.values(), made.taps_teacher),
    ):
        logits = network(torch.randn(4, *SHAPE))
        seen = taps.pop()
        given[network] = Outputs(logits.bfloat16(), {path: seen[path].bfloat16() for path in paths})
    loss = kind(layers=layers)
    loss.attach(made.student, made.teacher.module)
    loss.build(*given.values())
    assert {parameter.dtype for parameter in loss.parameters()} == {torch.float32}


@terms
def test_before_it_is_built(kind):
    said = Outputs(torch.zeros(4, 10), {"a": torch.randn(4, 3, 4, 4)})
    with pytest.raises(InputError, match=f"{kind.__name__} must be built with the outputs of a dry run before it is"):
        kind(layers={"a": "a"})(said, said, TARGET)


@pytest.fixture(scope="module", params=[False, True], ids=["terms", "simkd"])
def alone(request, tmp_path_factory):
    """What one process learns."""
    return request.param, run(projected_jobs.train, tmp_path_factory.mktemp("alone"), ranks=1, simkd=request.param)[0]


@pytest.mark.distributed
@pytest.mark.filterwarnings(*UPSTREAM)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_learn_what_one_does(strategy, alone, tmp_path):
    simkd, one = alone
    untrained = dict(projected_jobs.module(simkd).named_parameters())
    matrices = {name: p for name, p in untrained.items() if p.requires_grad and p.ndim > 1}
    assert all((p - one[name]).abs().max() > 1e-4 for name, p in matrices.items())
    for weights in run(projected_jobs.train, tmp_path, strategy, simkd=simkd):
        torch.testing.assert_close(weights, one, rtol=0, atol=2e-5)
