"""One of two gloo processes with a part of the batch: its step must be that of one process with all of it."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lit_distill.core.outputs import Outputs
from lit_distill.losses import CC, DIST, MLLD, PKT, RKD, SKD, SP, LumiNet
from lit_distill.losses.gather import gathered
from lit_distill.losses.logit import uskd

SPLITS = [(0, 3), (3, 8)]  # rows of each rank: unequal numbers


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()


def relation(kind, student, x, teacher, gather):
    loss = kind(gather=gather, layers={"out": "out"})
    empty = torch.empty(0)
    return loss(Outputs(empty, {"out": student(x)}), Outputs(empty, {"out": teacher}), empty)


def relations_of_the_whole_batch(own, kind):
    x, teacher = torch.randn(8, 6).double(), torch.randn(8, 7).double()
    alone, shared = network(), DistributedDataParallel(network())
    expected = relation(kind, alone, x, teacher, gather=False)
    expected.backward()
    value = relation(kind, shared, x[own], teacher[own], gather=True)
    value.backward()
    torch.testing.assert_close(value, expected)
    for mine, theirs in zip(shared.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-12)


def logits_of_the_whole_batch(own, kind):
    student, teacher = (torch.randn(8, 5).double() for _ in range(2))
    student.requires_grad_()
    expected = kind()(Outputs(student), Outputs(teacher), torch.empty(0))
    part = student[own].detach().requires_grad_()
    value = kind(gather=True)(Outputs(part), Outputs(teacher[own]), torch.empty(0))
    torch.testing.assert_close(value, expected)
    (gradient,), (whole,) = torch.autograd.grad(value, part), torch.autograd.grad(expected, student)
    torch.testing.assert_close(gradient, 2 * whole[own])  # as large as the sum over both ranks


def two_views_of_the_whole_batch(own):
    student, teacher = (torch.randn(2, 8, 5).double() for _ in range(2))  # weak views and strong ones
    student.requires_grad_()
    expected = MLLD()(Outputs(student.flatten(0, 1)), Outputs(teacher.flatten(0, 1)), torch.empty(0))
    part = student[:, own].detach().requires_grad_()
    said = [Outputs(views.flatten(0, 1)) for views in (part, teacher[:, own])]
    value = MLLD(gather=True)(*said, torch.empty(0))
    torch.testing.assert_close(value, expected)
    (gradient,), (whole,) = torch.autograd.grad(value, part), torch.autograd.grad(expected, student)
    torch.testing.assert_close(gradient, 2 * whole[:, own])


def mean_confidence_of_the_whole_batch(own):
    student, weak = (torch.randn(8, 5).double() for _ in range(2))
    target = torch.arange(8) % 5
    value = uskd(student[own], weak[own], target[own], gather=True) * len(target[own])
    dist.all_reduce(value)
    torch.testing.assert_close(value / 8, uskd(student, weak, target))


def gradient_is_the_sum_over_the_losses_of_all_ranks(own):
    x = torch.randn(8, 2, 3, dtype=torch.float64)
    weights = torch.randn(2, 8, 2, 3, dtype=torch.float64)  # another loss on each rank
    part = x[own].clone().requires_grad_()
    whole = gathered(part)
    assert torch.equal(whole, x)
    (gradient,) = torch.autograd.grad((whole * weights[dist.get_rank()]).sum(), part)
    torch.testing.assert_close(gradient, weights.sum(0)[own])


def a_rank_without_rows():
    rows = dist.get_rank() * 2
    x = torch.arange(float(rows)).requires_grad_()
    whole = gathered(x)
    assert whole.tolist() == [0, 1]
    whole.sum().backward()
    assert x.grad.tolist() == [2.0] * rows


def main(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(1)
    own = slice(*SPLITS[rank])
    for kind in (CC, PKT, RKD, SP):
        relations_of_the_whole_batch(own, kind)
    for kind in (DIST, LumiNet, SKD):
        logits_of_the_whole_batch(own, kind)
    two_views_of_the_whole_batch(own)
    mean_confidence_of_the_whole_batch(own)
    gradient_is_the_sum_over_the_losses_of_all_ranks(own)
    a_rank_without_rows()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
