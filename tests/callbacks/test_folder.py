from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from lit_distill.callbacks.folder import run_folder

from .fake import FakeDistiller, batches, trainer


class Shared(Logger):
    """Keeps all runs in one folder and tells them apart by an id, as Weights & Biases does."""

    def __init__(self, root):
        super().__init__()
        self.root = root

    @property
    def save_dir(self):
        return str(self.root)

    @property
    def name(self):
        return "project"

    @property
    def version(self):
        return "abc123"

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_is_the_folder_that_holds_the_checkpoints(tmp_path):
    for logger, folder in (
        (False, tmp_path),
        (CSVLogger(tmp_path, name="runs"), tmp_path / "runs/version_0"),
        (CSVLogger(tmp_path, name="runs"), tmp_path / "runs/version_1"),
        (CSVLogger(tmp_path, name="runs", version="mine"), tmp_path / "runs/mine"),
        (Shared(tmp_path), tmp_path / "project/abc123"),
    ):
        checkpoint = ModelCheckpoint()
        run = trainer(tmp_path, checkpoint, logger=logger, max_epochs=1, log_every_n_steps=1)
        run.fit(FakeDistiller(), batches(), batches(1))
        assert run_folder(run) == folder
        assert str(folder / "checkpoints") == checkpoint.dirpath
        if isinstance(logger, CSVLogger):
            assert run_folder(run).samefile(run.log_dir)
