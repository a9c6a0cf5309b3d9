"""No term on logits holds more memory than its maths needs."""

import inspect

import pytest
import torch

from lit_distill.losses import LogitLoss, logit

from .live_memory import peak_bytes
from .loss_cases import CASES, step, tensors, unit

# Rows and classes; numbers a row or two alone do not count beside them, nor do small matrices of samples.
BATCH, CLASSES = 256, 1000
MOST = 6.0
# What the maths of these terms needs beyond that, in tensors of the size of the logits.
MORE = {
    "MEALV2": 1.0,  # the discriminator learns from the answers of both networks at once
    "WKDL": 2 * CLASSES / BATCH,  # between the classes: the kernel of the transport, and what it costs
}


@pytest.mark.parametrize("name", CASES)
def test_at_most_six_tensors_of_the_size_of_the_logits(name):
    inputs = CASES[name].inputs(BATCH, CLASSES)
    held = peak_bytes(lambda: step(CASES[name].value, inputs), tensors(inputs)) / unit(inputs)
    assert held < MOST + MORE.get(name, 0.0) + 0.1
    assert name not in MORE or held > MOST, "this one needs no exception"


def test_every_term_on_logits_is_measured():
    terms = {kind for kind in vars(logit).values() if inspect.isclass(kind) and issubclass(kind, LogitLoss)}
    assert {kind.__name__ for kind in terms - {case.term for case in CASES.values()}} == set()


def held(function, *given):
    return peak_bytes(function, given) / 4000


def test_memory_is_that_of_the_tensors_alive():
    x = torch.ones(1000)
    assert held(lambda: x.exp(), x) == 1
    assert held(lambda: x.exp().exp().exp(), x) == 2
    assert held(lambda: [x.exp() for _ in range(3)], x) == 3
    assert held(lambda: x.exp().view(10, 100).T[0], x) == 1
    assert held(lambda: x.view(10, 100), x) == 0


def test_memory_of_a_graph():
    x = torch.ones(1000, requires_grad=True)

    def chain(depth):
        y = x
        for _ in range(depth):
            y = y.exp()
        return y.sum()

    # each exponential waits for its backward pass, and is freed in it
    assert [round(held(lambda n=n: chain(n), x)) for n in (1, 2, 5)] == [1, 2, 5]
    assert round(held(lambda: torch.autograd.grad(chain(5), x), x)) == 6
