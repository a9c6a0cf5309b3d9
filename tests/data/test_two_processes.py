"""Two processes under a real Trainer see together what one sees."""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys, warnings
import torch
from lightning.pytorch import LightningModule, Trainer
from lit_distill.data import Digits, Mixup

torch.set_num_threads(1)
folder, processes = sys.argv[1], int(sys.argv[2])

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

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

# 95 samples: the last batches are of different size; 143 held out: one is left for two processes
data = Digits(
    batch_size=32 // processes, limit=95, val_fraction=143 / 1438, index=True, augment=True, mix=Mixup(), seed=3
)
module = Recorder()
trainer = Trainer(
    accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=2, logger=False,
    num_sanity_val_steps=0, default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
    enable_checkpointing=False,
)
trainer.fit(module, data)
torch.save(module.seen, f"{folder}/{processes}-{trainer.global_rank}.pt")
"""


@pytest.mark.distributed
def test_two_processes_see_together_what_one_sees(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for processes in (1, 2):
        subprocess.run(
            [sys.executable, script, tmp_path, str(processes)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    one, *two = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert len(one["train"]) == len(two[0]["train"]) == len(two[1]["train"]) == 6
    for whole, *shares in zip(one["train"], two[0]["train"], two[1]["train"], strict=True):
        indices = torch.cat([index for _, _, index in shares])
        assert torch.equal(indices, whole[2])
        if len(whole[0]) % 4 == 0:  # pairs are mixed within even shares alone
            assert torch.equal(torch.cat([x for x, _, _ in shares]), whole[0])
            assert torch.equal(torch.cat([target for _, target, _ in shares]), whole[1])
    assert len(two[0]["val"]) == len(two[1]["val"])
    for ranks in (two, [one]):
        seen = torch.cat([index for rank in ranks for _, _, index in rank["val"]])
        assert len(seen) == len(seen.unique()) == 2 * 143 / 2 * 2
