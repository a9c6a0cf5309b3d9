"""One of two gloo processes: half of the samples on each must give what all of them give on one."""

import os
import sys

import torch

from lit_distill.metrics import CKA, TeacherAgreement, TeacherKL, TeacherStddev


def main(rank: int, port: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(60, 5, generator=generator), torch.randn(60, 5, generator=generator)
    batches = [slice(0, 24), slice(24, 40), slice(40, 60)]
    for metric_class in (TeacherAgreement, TeacherKL, CKA):
        shared, alone = metric_class(), metric_class(distributed_available_fn=lambda: False)
        for index, part in enumerate(batches):
            alone.update(student[part], teacher[part])
            if index % 2 == rank:  # two batches on the first rank, one on the second
                shared.update(student[part], teacher[part])
        torch.testing.assert_close(shared.compute(), alone.compute())
        assert alone.compute().isfinite()
    check_teacher_stddev(rank)
    torch.distributed.destroy_process_group()


def check_teacher_stddev(rank: int) -> None:
    """Whole groups on each rank, and one that is not full on the first."""
    teacher = torch.randn(70, 5, generator=torch.Generator().manual_seed(1))
    shared = TeacherStddev(5, group=10)
    alone = TeacherStddev(5, group=10, distributed_available_fn=lambda: False)
    alone.update(teacher)
    shared.update((torch.cat([teacher[:40], teacher[:3]]), teacher[40:])[rank])
    torch.testing.assert_close(shared.compute(), alone.compute())
    shared.update(teacher[3:10] if rank == 0 else teacher[:10])
    alone.update(teacher[:10].repeat(2, 1))
    torch.testing.assert_close(shared.compute(), alone.compute())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
