"""One of two gloo processes with half of the batch."""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lit_distill.core.outputs import Outputs
from lit_distill.losses import CTKD, DTS, KD, CorrectnessMask, NoisyTeacher
from lit_distill.losses.modifiers import dynamic_temperature


def everyones(tensor):
    parts = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(parts, tensor)
    return parts


def batch():
    student, teacher = torch.randn(2, 8, 7, dtype=torch.float64) * torch.linspace(0.1, 4, 8).unsqueeze(-1).double()
    return student, teacher, teacher.argmax(-1)


def dts():
    loss = DTS(KD()).double()
    loss.progress = 0.9
    return loss


def the_dynamic_temperature_is_that_of_the_whole_batch(rank):
    student, teacher, target = batch()
    own = (slice(0, 3), slice(3, 8))[rank]  # unequal numbers, and the student lags behind on rank 1 alone
    loss = dts()
    loss(Outputs(student[own]), Outputs(teacher[own]), target[own])
    entropies = [torch.nn.functional.cross_entropy(x, target) for x in (teacher, student)]
    expected = dynamic_temperature(torch.tensor(4.0).double(), entropies[0] - entropies[1], 0.9)
    torch.testing.assert_close(loss.temperature, expected)
    assert torch.equal(*everyones(loss.temperature))


def a_rank_without_kept_samples_keeps_step(rank):
    student, teacher, target = batch()
    never = teacher.argmin(-1)
    target = never if rank == 0 else target
    torch.manual_seed(2)
    network = DistributedDataParallel(nn.Linear(7, 7).double())
    for term in (dts(), CTKD(KD()).double()):
        loss = CorrectnessMask(term)
        value = loss(Outputs(network(student)), Outputs(teacher), target)
        network.zero_grad()
        value.backward()
        assert (value == 0) == (rank == 0)
        assert torch.equal(*everyones(network.module.weight.grad))
        for parameter in loss.parameters():
            assert (parameter.grad == 0) == (rank == 0)


def noise_differs_between_ranks():
    same = torch.randn(4, 7)
    value = NoisyTeacher(KD(), probability=1.0)(Outputs(same), Outputs(same), None)
    assert not torch.equal(*everyones(value))


def main(rank: int, meeting: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.manual_seed(1)
    the_dynamic_temperature_is_that_of_the_whole_batch(rank)
    a_rank_without_kept_samples_keeps_step(rank)
    noise_differs_between_ranks()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
