"""Terms on the layers of every default view see the same in compiled networks."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from lit_distill import Distiller
from lit_distill.losses import AB, AT, RKD, SP, FitNet
from lit_distill.models import ConvNet

# each chooses its layers by this view
TERMS = {"stages": AT, "pre_activation": AB, "middle": FitNet, "last": SP, "pooled": RKD}
SHAPE = (1, 8, 8)


def network(width):
    return ConvNet(in_channels=1, num_classes=5, width=width, depth=2)


def step(view, backend=None):
    """Value of a term and gradients of a step, by the name of what learns."""
    torch.manual_seed(0)
    module = Distiller(
        student=network(4),
        teacher=network(6),
        losses={"it": TERMS[view]()},
        optimizer=torch.optim.SGD,
        input_shape=SHAPE,
    )
    if backend is not None:
        torch.compiler.reset()
        for net in (module.student, module.teacher.module):
            net.compile(backend=backend)  # in place, as the callback Compile does
    value = module.terms((torch.randn(4, *SHAPE), torch.tensor([0, 3, 2, 1])))[1]["it"]
    value.backward()
    return value.detach(), {
        # layers behind the tapped one get no gradient, or one of 0 where they are a part of what was compiled
        name: torch.zeros_like(x) if x.grad is None else x.grad
        for name, x in module.named_parameters()
    }


@pytest.mark.parametrize("view", TERMS)
def test_a_compiled_step_is_the_eager_one(view):
    assert TERMS[view].default_view == view
    backend = CompileCounterWithBackend("aot_eager")
    compiled, eager = step(view, backend), step(view)
    assert backend.frame_count == 2  # both networks, each in one graph
    assert any(gradient.any() for gradient in eager[1].values())
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
