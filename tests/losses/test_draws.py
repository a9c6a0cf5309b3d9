import torch

from lit_distill.losses.draws import Draws

CPU = torch.device("cpu")


def numbers(draws, count=4):
    return torch.stack([torch.rand(8, generator=draws.generator(CPU)) for _ in range(count)])


def test_each_draw_and_each_seed_is_another():
    seen = torch.cat([numbers(Draws(seed)) for seed in range(3)])
    assert len(seen.unique(dim=0)) == 12


def test_goes_on_from_a_checkpoint():
    draws, resumed = Draws(seed=3), Draws(seed=3)
    numbers(draws)
    resumed.load_state_dict(draws.state_dict())
    torch.testing.assert_close(numbers(resumed), numbers(draws), rtol=0, atol=0)


def test_another_rank_draws_other_numbers(monkeypatch):
    first = numbers(Draws())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert not (numbers(Draws()) == first).any()


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    numbers(Draws())
    assert torch.equal(torch.get_rng_state(), before)
