"""Two processes under a real Trainer see together what one sees."""

import os
import subprocess
import sys

import pytest
import torch

# forked in a process of its own, in which nothing has started threads
SCRIPT = """
import sys

import torch
from lightning.pytorch import LightningModule, Trainer

from lit_distill.data import Digits, Mixup


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch)
        return self.weight.square()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch)

    def on_fit_end(self):
        torch.save(self.seen, f"{sys.argv[1]}/{self.trainer.world_size}-{self.trainer.global_rank}.pt")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


for processes in (2, 1):
    # shares of the last training batch differ, and of 145 samples held out one is left over
    data = Digits(
        batch_size=32 // processes, limit=95, val_fraction=145 / 1438, index=True, augment=True, mix=Mixup(), seed=3
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        max_epochs=2,
        default_root_dir=sys.argv[1],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Recorder(), data)
"""


@pytest.mark.distributed
def test_two_processes_see_together_what_one_sees(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], check=True, env=environment)
    one, *two = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))

    assert len(one["train"]) == len(two[0]["train"]) == len(two[1]["train"]) == 6
    for whole, *shares in zip(one["train"], two[0]["train"], two[1]["train"], strict=True):
        x, target, index = (torch.cat(tensors) for tensors in zip(*shares, strict=True))
        assert torch.equal(index, whole[2])
        if len(index) == 32:  # pairs are mixed, so odd shares have other ones
            assert torch.equal(x, whole[0])
            assert torch.equal(target, whole[1])

    assert len(two[0]["val"]) == len(two[1]["val"])
    held_out = [torch.cat([index for rank in ranks for *_, index in rank["val"]]) for ranks in ([one], two)]
    assert torch.equal(held_out[0].sort().values, held_out[1].sort().values)
    assert len(held_out[0]) == 2 * len(held_out[0].unique())  # once an epoch
