"""One of two gloo processes with a part of each batch: LELP must find the projections of one process with all of it."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from lit_distill.core.outputs import Outputs
from lit_distill.losses import LELP

PARTS = [(0, 5), (5, 12)]  # rows of each rank: unequal numbers


def term():
    torch.manual_seed(0)
    loss, network = (
        LELP(layer="last", classifier="fc", subclasses=2, samples=30),
        nn.ModuleDict({"fc": nn.Linear(6, 3)}),
    )
    loss.attach(network, network)
    outputs = Outputs(torch.zeros(2, 3), {"last": torch.zeros(2, 4), "fc:input": torch.zeros(2, 6)})
    loss.build(outputs, outputs)
    return loss.train()


def main(rank: int, meeting: str) -> None:
    torch.manual_seed(1)
    batches = [(torch.randn(12, 6), torch.arange(12) % 3) for _ in range(3)]
    whole = term()
    whole.fit(torch.cat([x for x, _ in batches])[:30], torch.cat([y for _, y in batches])[:30])
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    shared, own = term(), slice(*PARTS[rank])
    for x, y in batches:
        assert not shared.fitted
        logits = torch.zeros(len(y[own]), 3)
        shared(Outputs(logits, {"last": x[own, :4]}), Outputs(logits, {"fc:input": x[own]}), y[own])
    assert shared.fitted
    torch.testing.assert_close(shared.projections, whole.projections)
    torch.testing.assert_close(shared.offsets, whole.offsets)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
