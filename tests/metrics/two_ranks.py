"""One of two gloo processes: half of the samples on each must give what all of them give on one."""

import os
import sys

import torch

from lit_distill.metrics import CKA, AveragePrecision, TeacherAgreement, TeacherKL, TeacherStddev


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
    check_average_precision(rank)
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


def check_average_precision(rank: int) -> None:
    """On the second rank's images nothing is found, and on the first rank's there are more objects."""
    corners = torch.arange(6.0)[:, None].repeat(1, 2) * 20
    boxes = torch.cat([corners, corners + 10], 1)
    true = [{"boxes": boxes[:n], "labels": torch.tensor([1, 2, 1, 1, 2, 1])[:n]} for n in (6, 2, 1)]
    scores = torch.tensor([0.9, 0.3, 0.8, 0.1, 0.5, 0.7])
    near = [{"boxes": t["boxes"] + 1, "labels": t["labels"], "scores": scores[: len(t["labels"])]} for t in true[:2]]
    said = [*near, {name: value[:0] for name, value in near[0].items()}]
    shared, alone = AveragePrecision(), AveragePrecision(distributed_available_fn=lambda: False)
    alone.update(said, true)
    shared.update(*((said[:2], true[:2]), (said[2:], true[2:]))[rank])
    torch.testing.assert_close(shared.compute(), alone.compute())
    assert 0 < alone.compute() < 1


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
