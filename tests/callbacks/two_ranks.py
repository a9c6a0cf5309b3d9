"""One of two gloo processes that train together, once by DDP and once by FSDP2, with the callbacks on."""

import copy
import os
import sys
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parent))
from fake import FakeDistiller, SaveAfter, batches, same, weights

from lit_distill.callbacks import Curves, GradientConflict, StudentEMA, StudentFile
from lit_distill.core.strategies import FSDP2Strategy, shard
from lit_distill.errors import InputError
from lit_distill.student_file import load_card


class Sharded(FakeDistiller):
    def __init__(self, seed=0):
        super().__init__(seed)
        del self.student[3]  # no random numbers, so that all runs can be compared
        self.strict_loading = False  # Lightning's reader of single-file checkpoints does not call state-dict hooks

    def configure_model(self):
        if self.device_mesh is not None and not isinstance(self.student, FSDPModule):
            shard(self.student, mesh=self.device_mesh["data_parallel"])

    def evaluate(self, batch, stage):
        super().evaluate(batch, stage)
        self.validated[-1] = whole(self.validated[-1])


def whole(state):
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def trainer(folder, strategy, *callbacks, epochs=2):
    return L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy(),
        use_distributed_sampler=False,
        logger=False,
        callbacks=[*callbacks, SaveAfter(1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=epochs,
        default_root_dir=folder,
    )


def check(folder, name, strategy):
    """A whole run, a resumed one, and a test from the checkpoint, all with the same average."""
    folder = folder / name
    ema, module = StudentEMA(decay=0.9), Sharded()
    run = trainer(folder / "whole", strategy, ema, StudentFile(), Curves())
    run.fit(module, batches(), batches(1))
    average, own = ema.averaged_student_state(), whole(weights(module.student))
    assert not same(average, own)
    assert same(module.validated[-1], average)

    saved, card = load_file(folder / "whole/student.safetensors"), load_card(folder / "whole/student.safetensors")
    assert same(saved, average)
    assert card["which"] == "ema"
    assert card["parameters"] == sum(
        value.numel() for key, value in own.items() if key in dict(module.student.named_parameters())
    )
    if run.is_global_zero:
        assert (folder / "whole/curves.png").stat().st_size > 1000

    checkpoint = folder / "whole/epochs-1.ckpt"
    resumed, again = StudentEMA(decay=0.9), Sharded(seed=5)
    trainer(folder / "resumed", strategy, resumed).fit(again, batches(), batches(1), ckpt_path=checkpoint)
    assert same(whole(weights(again.student)), own)
    assert same(resumed.averaged_student_state(), average)

    tested = Sharded(seed=7)
    trainer(folder / "tested", strategy, StudentEMA()).test(tested, batches(1), ckpt_path=checkpoint, verbose=False)
    assert len(tested.validated) == 1
    assert not same(tested.validated[0], average)  # that of one epoch before
    return average


def check_conflict(folder, rank):
    """Each rank has half of the samples; gradients are those of all of them."""

    class Linear(FakeDistiller):
        def __init__(self):
            super().__init__()
            self.student = nn.Linear(4, 3)

    data, module = batches(1, 16), Linear()
    reference = copy.deepcopy(module)
    reference.log_dict = lambda *args, **kwargs: None
    reference.training_step(data.batches[0], 0)
    parameters = list(reference.student.parameters())
    ce, kd = (
        torch.cat([g.flatten() for g in torch.autograd.grad(term, parameters, retain_graph=True)])
        for term in reference.last_terms.values()
    )
    data.batches = [tuple(x[rank::2] for x in batch) for batch in data.batches]
    run = trainer(folder, lambda: "ddp", GradientConflict(every=1), epochs=1)
    run.fit(module, data, batches(1))
    torch.testing.assert_close(run.callback_metrics["grad_norm/ce"], ce.norm())
    torch.testing.assert_close(run.callback_metrics["grad_norm/kd"], kd.norm())
    torch.testing.assert_close(run.callback_metrics["grad_cosine/ce_kd"], ce @ kd / ce.norm() / kd.norm())


def check_conflict_refuses_shards(folder):
    with pytest.raises(InputError, match="cannot see the gradients of a sharded student"):
        trainer(folder, FSDP2Strategy, GradientConflict()).fit(Sharded(), batches(), batches(1))


def main(rank, port, folder):
    warnings.simplefilter("ignore")
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        RANK=rank,
        LOCAL_RANK=rank,
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        GROUP_RANK="0",
        TORCHELASTIC_RUN_ID="test",
    )
    folder = Path(folder)
    ddp = check(folder, "ddp", lambda: "ddp")
    sharded = check(folder, "fsdp2", FSDP2Strategy)
    torch.testing.assert_close(sharded, ddp)
    single = check(folder, "fsdp2-single", lambda: FSDP2Strategy(save_distributed_checkpoint=False))
    torch.testing.assert_close(single, ddp)
    check_conflict(folder / "conflict", int(rank))
    check_conflict_refuses_shards(folder / "refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
