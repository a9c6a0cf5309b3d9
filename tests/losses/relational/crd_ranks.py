"""One of two gloo processes with a part of each batch: CRD must do what one process does with all of it."""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lit_distill.core.outputs import Outputs
from lit_distill.losses import CRD

PARTS = [(0, 3), (3, 8)]  # rows of each rank: unequal numbers
STEPS = 3


def term():
    torch.manual_seed(0)
    loss = CRD(samples=20, embedding=4, negatives=30, layers={"pool": "pool"})
    loss.build(*outputs(torch.zeros(1, 5), torch.zeros(1, 6), torch.zeros(1).long()))
    return loss.double()


def outputs(student, teacher, index):
    logits = torch.zeros(len(index), 3)
    return Outputs(logits, {"pool": student}, index), Outputs(logits, {"pool": teacher}, index)


def main(rank: int, meeting: str) -> None:
    torch.manual_seed(1)
    batches = [(torch.randn(8, 5).double(), torch.randn(8, 6).double(), torch.randperm(20)[:8]) for _ in range(STEPS)]
    alone, own = term(), slice(*PARTS[rank])
    values = []
    for student, teacher, index in batches:
        alone.zero_grad()
        values.append(alone(*outputs(student, teacher, index), index % 3))
        values[-1].backward()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    shared = term()
    parallel = DistributedDataParallel(shared)
    for (student, teacher, index), whole in zip(batches, values, strict=True):
        shared.zero_grad()
        share = len(index[own]) * 2 / len(index)  # ranks are averaged as if they had equally many samples
        value = share * parallel(*outputs(student[own], teacher[own], index[own]), index[own] % 3)
        value.backward()
        dist.all_reduce(value)
        torch.testing.assert_close(value / 2, whole)
    for mine, theirs in zip(shared.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(shared.banks.get_extra_state(), alone.banks.get_extra_state())
    assert shared.banks.steps == STEPS
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
