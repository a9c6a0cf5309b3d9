"""The command line on two ranks: training, test, report and files."""

import json

import torch
from safetensors.torch import load_file

from . import jobs
from .ranks import run


def test_two_ranks_write_what_one_writes(tmp_path):
    files, cards = {}, {}
    for strategy, ranks in (("auto", 1), ("ddp", 2), ("fsdp2", 2)):
        folder = tmp_path / strategy
        folder.mkdir()
        (folder / "run.yaml").write_text(jobs.CONFIG)
        flags = [f"--trainer.strategy={strategy}", f"--trainer.devices={ranks}", f"--data.batch_size={8 // ranks}"]
        assert run(jobs.command, folder, "fit", "--config", "run.yaml", *flags, ranks=ranks) == [0] * ranks
        files[strategy] = load_file(folder / "run" / "version_0" / "student.safetensors")
        cards[strategy] = json.loads((folder / "run" / "version_0" / "student.json").read_text())
    for strategy in ("ddp", "fsdp2"):
        torch.testing.assert_close(files[strategy], files["auto"], rtol=0, atol=1e-5)
        for which in ("last", "selected"):
            tested, alone = (cards[name]["results"][which] for name in (strategy, "auto"))
            torch.testing.assert_close(tested, alone, rtol=0, atol=1e-5)
