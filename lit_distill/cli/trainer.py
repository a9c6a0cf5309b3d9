"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with this library's defaults."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

# Imported for their names: a class that is known needs no path in YAML (`class_path: KD`).
import lit_distill.callbacks
import lit_distill.data
import lit_distill.detection
import lit_distill.distiller
import lit_distill.losses
import lit_distill.models
import lit_distill.mutual
import lit_distill.optim
import lit_distill.segmentation
import lit_distill.store
import lit_distill.supervised  # noqa: F401
from lit_distill import __version__
from lit_distill.callbacks import Curves, DistillProgressBar, ExampleImages, StudentFile
from lit_distill.callbacks.folder import run_folder
from lit_distill.cli import TOOLS
from lit_distill.cli.checkpoint import Checkpoint
from lit_distill.cli.parser import Parser, causes
from lit_distill.core.module import DistillModule
from lit_distill.core.strategies import register
from lit_distill.dataset import DatasetDistiller
from lit_distill.dataset.report import report_distilled
from lit_distill.errors import InputError
from lit_distill.report import Baseline, report, write_predictions
from lit_distill.student_file import write_whole


def run(arguments: list[str]) -> int:
    """Run one of Lightning's subcommands.

    Args:
        arguments: What follows ``lit-distill``.

    Returns:
        0; errors are raised.
    """
    with short_errors():
        cli(arguments)
    return 0


def cli(args: ArgsType, kind: type["DistillCLI"] | None = None) -> "DistillCLI":
    """Parse arguments, run the subcommand, and return the CLI object with its trainer, model and data module.

    Args:
        args: Arguments as a list of strings, or a nested dict of settings.
        kind: The command line to run; default: :class:`DistillCLI`.
    """
    register()
    tools = "; ".join(f"{name}: {text}" for name, (_, text) in TOOLS.items())
    with warnings.catch_warnings():
        quiet()
        return (kind or DistillCLI)(
            DistillModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=LoggedConfig,
            parser_class=Parser,
            parser_kwargs={
                "prog": "lit-distill",
                "version": __version__,
                "description": f"Distillation on PyTorch Lightning. Tools besides the subcommands: {tools}.",
            },
            args=args,
        )


def quiet() -> None:
    """Silence warnings that a user of the command line can do nothing about."""
    # LightningCLI 2.6 uses names that jsonargparse 5 will drop; our requirement stays below 5.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning.pytorch.cli")
    warnings.filterwarnings("ignore", message=".*jsonargparse.*", category=DeprecationWarning)
    # We hand over the arguments that we were given, and LightningCLI wonders why.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    # The teacher is in eval mode on purpose.
    warnings.filterwarnings("ignore", message="Found .* module.* in eval mode at the start of training")
    # Small sets live in one tensor: worker processes would only slow them down.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary")
    # Lightning advertises its cloud services on every run.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "💡" not in record.getMessage())


class LoggedConfig(SaveConfigCallback):
    """Writes the resolved config into the run folder, and sends it to the loggers.

    Lightning would write it where all runs of a Weights & Biases project lie, each over the one before.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write and send it, once."""
        if self.already_saved:
            return
        self.already_saved = True
        folder = run_folder(trainer)  # asks all ranks
        if not trainer.is_global_zero:
            return
        text = self.parser.dump(self.config, skip_none=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.yaml", lambda file: file.write_text(text, encoding="utf-8"))
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))


class DistillCLI(LightningCLI):
    """LightningCLI with the callbacks that every run wants, a run folder named after the preset, and a report."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the standing callbacks, the baseline, and the links from data to model."""
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.set_defaults({"checkpoint.monitor": "val/acc", "checkpoint.mode": "max", "checkpoint.save_last": True})
        parser.add_lightning_class_args(StudentFile, "student_file")
        parser.add_lightning_class_args(DistillProgressBar, "progress")
        parser.add_lightning_class_args(Curves, "curves")
        parser.add_lightning_class_args(ExampleImages, "images")
        parser.add_class_arguments(Baseline, "baseline")
        parser.link_arguments("data.input_shape", "model.init_args.input_shape", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_as_seed)

    def _parse_ckpt_path(self) -> None:
        """Keep what the user asked for.

        Lightning would lay the checkpoint's hyperparameters over the config and the flags, in silence:
        ``--model.losses.kd.temperature=8`` would have no effect on a resumed run.
        """

    def before_instantiate_classes(self) -> None:
        """Say where files go, and check the checkpoint; only a fit that writes is compared with the student alone."""
        config = self.config[self.subcommand]
        trainer, checkpoint = config.trainer, config.get("ckpt_path")
        check_checkpoint(checkpoint)
        paths = [str(path) for path in config.get("config") or []]
        name = Path(paths[0]).stem if paths else "run"
        if self.subcommand != "fit" or trainer.fast_dev_run:
            config.baseline.path = None
        if self.subcommand != "fit":
            self.save_config_callback = None
            trainer.default_root_dir = trainer.default_root_dir or str(folder_of(checkpoint) or Path("runs", name))
            if trainer.logger is None:
                trainer.logger = False
            if checkpoint is None:
                print("ckpt_path is not given: the student is the one that the model builds", file=sys.stderr)
        elif trainer.logger is False:
            trainer.default_root_dir = trainer.default_root_dir or str(Path("runs", name))
        elif trainer.logger is None or trainer.logger is True:
            trainer.logger = {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": trainer.default_root_dir or "runs", "name": name},
            }
        else:
            for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
                if logger.init_args.get("name") == "lightning_logs":  # the default of those that write folders
                    logger.init_args.name = name

    def instantiate_classes(self) -> None:
        """Build the data, the model and the trainer; values that their constructors refuse are the user's to mend."""
        with short_errors(ValueError, RuntimeError, OSError):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Leave out the standing callbacks that contradict a switch of the Trainer."""
        config = self.config_init[self.subcommand]
        parser = self._parser(self.subcommand)
        # Lightning's own fast_dev_run still writes last.ckpt.
        if config.trainer.enable_checkpointing is False or config.trainer.fast_dev_run:
            parser.callback_keys.remove("checkpoint")
        if config.trainer.enable_progress_bar is False:
            parser.callback_keys.remove("progress")
        if not hasattr(self.model, "student"):
            parser.callback_keys.remove("student_file")
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Test what was trained and say what came out."""
        if self.trainer.fast_dev_run or not self.trainer.state.finished:  # type: ignore[attr-defined]
            return
        if isinstance(self.model, DatasetDistiller):
            report_distilled(self.trainer, self.model)
        else:
            report(self.trainer, self.model, self.datamodule, self.config_init[self.subcommand].baseline)

    def before_predict(self) -> None:
        """Refuse several processes, of which each would know the predictions of its own samples only."""
        if self.trainer.world_size > 1:
            raise InputError(
                f"trainer.devices: predict runs in one process, not in {self.trainer.world_size}; add "
                "--trainer.devices=1 --trainer.num_nodes=1"
            )

    def after_predict(self) -> None:
        """Write the predictions where the user finds them."""
        write_predictions(self.trainer)


def check_checkpoint(path: object) -> None:
    """Refuse a checkpoint that is missing or cut short, before anything is built.

    Raises:
        InputError: Naming the file.
    """
    if path is None:
        return
    file = Path(str(path))
    if not file.exists() and not file.with_name(f".{file.name}.previous").exists():
        # Lightning's "last" and "best" look in this run's folder, which is new: it would begin anew, and hardly say so.
        raise InputError(f"ckpt_path: {file} does not exist; accepted is a path, e.g. RUN/checkpoints/last.ckpt")
    if file.is_file():
        try:
            torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except UnpicklingError as error:
            raise InputError(
                f"ckpt_path: {file} is no checkpoint, or holds more than tensors and plain values; nothing else is "
                "ever unpickled"
            ) from error
        except Exception as error:  # a damaged archive raises almost anything
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(f"ckpt_path: {file} is no readable checkpoint, or was cut short ({reason})") from error


def folder_of(checkpoint: object) -> Path | None:
    """The run folder that a checkpoint lies in, if it is one."""
    if checkpoint is None or Path(str(checkpoint)).parent.name != "checkpoints":
        return None
    return Path(str(checkpoint)).parent.parent


@contextmanager
def short_errors(*others: type[Exception]) -> Iterator[None]:
    """Turn the errors that users make into one line.

    Args:
        others: What is the user's error here besides what always is.
    """
    # The parser wraps what a constructor raised in errors of its own.
    kinds = (InputError, MisconfigurationException, FileNotFoundError)
    try:
        yield
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, kinds):
                raise InputError(" ".join(str(cause).split())) from error
        if isinstance(error, others):
            raise InputError(f"{' '.join(str(error).split())} (LIT_DISTILL_DEBUG=1 shows where)") from error
        raise


def _as_seed(seed: bool | int) -> int:
    return int(seed)
