import random

import numpy as np
import pytest
import torch

from lit_distill.core.rng import rng_states, set_rng_states


def draws():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()


@pytest.fixture(autouse=True)
def unchanged():
    states = rng_states()
    yield
    set_rng_states(states)


def test_all_generators_continue_from_a_file(tmp_path):
    np.random.randn()  # leaves a second normal number in NumPy's store
    torch.save(rng_states(), tmp_path / "states.pt")
    expected = draws()
    assert draws() != expected
    set_rng_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draws() == expected


def test_another_number_of_ranks_keeps_its_own_states():
    states = rng_states()
    first = draws()
    set_rng_states(states * 2)
    second = draws()
    set_rng_states(states)
    assert draws() == first
    assert draws() == second
