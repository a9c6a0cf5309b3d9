"""How much a linear classifier finds in a network's features."""

from itertools import islice
from math import ceil
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lit_distill.callbacks.student import student_of
from lit_distill.core.frozen import Frozen
from lit_distill.core.taps import Taps
from lit_distill.errors import InputError
from lit_distill.metrics.ridge_probe import RidgeProbe
from lit_distill.models.staged import StagedNetwork


class LinearProbe(L.Callback):
    """Logs the accuracy of a linear classifier on frozen features: ``val/probe`` and ``test/probe``.

    Before every validation and test a :class:`~lit_distill.metrics.RidgeProbe` is fitted, in closed form, to what one
    layer gives for the training set, not augmented; maps and tokens are averaged over positions. It measures what a
    student learnt that was told no labels, or whose answers are not classes (Alain, Bengio, Understanding Intermediate
    Layers Using Linear Classifier Probes, ICLR 2017 workshop, https://arxiv.org/abs/1610.01644). A ``StudentEMA`` is
    probed in the student's place. For the teacher the names are ``val/probe_teacher`` and ``test/probe_teacher``.

    Costs one forward pass over the training set for each validation, and a second one over the validation set. With
    ``trainer.limit_train_batches`` the probe too sees so many batches.

    Args:
        layer: Module path of the features. Default: what the last linear layer sees, where the network is one of
            this library's.
        network: Probe the ``student`` or the ``teacher``.
        penalty: Weight of the regularisation, relative to the variance of a feature; positive.
        name: What the metric is called, where several layers of one network are probed. Default: ``probe`` or
            ``probe_teacher``.

    Raises:
        InputError: When there is no data module, no such network or layer, ``layer`` is missing for a network of
            another library, or an argument is out of range.
    """

    def __init__(
        self,
        layer: str | None = None,
        network: Literal["student", "teacher"] = "student",
        penalty: float = 1e-3,
        name: str | None = None,
    ) -> None:
        if network not in ("student", "teacher"):
            raise InputError(f"network: {network!r} given to LinearProbe; accepted are student and teacher")
        RidgeProbe(classes=1, penalty=penalty)  # checks it now, and not at the first validation
        self.layer = layer
        self.network = network
        self.penalty = penalty
        self.name = name or ("probe" if network == "student" else "probe_teacher")
        self._taps: Taps | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tap the network once, whatever stages follow."""
        if trainer.datamodule is None:  # type: ignore[attr-defined]
            raise InputError(
                "datamodule: LinearProbe learns from the training set of a data module, and the trainer was given none"
            )
        if self._taps is None:
            network = self._of(pl_module)
            path = network.pooled_path if self.layer is None and isinstance(network, StagedNetwork) else self.layer
            if path is None:
                raise InputError(
                    f"layer: LinearProbe does not know where the features of a {type(network).__name__} are; accepted "
                    "is the path of a module"
                )
            self._taps = Taps(network, [path], self.network)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Let go of a training step's activations."""
        assert self._taps is not None
        self._taps.pop()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit the probe."""
        if not trainer.sanity_checking:
            self._fit(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Let the probe answer."""
        if not trainer.sanity_checking:
            self._answer(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log its accuracy."""
        if not trainer.sanity_checking:
            pl_module.log(f"val/{self.name}", self.metric.compute())

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit the probe."""
        trainer.datamodule.setup("fit")  # type: ignore[attr-defined]
        self._fit(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Let the probe answer."""
        self._answer(trainer, pl_module, batch)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log its accuracy."""
        pl_module.log(f"test/{self.name}", self.metric.compute())

    def _fit(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        classes = getattr(data, "num_classes", None)
        if classes is None:
            raise InputError(f"datamodule: LinearProbe asks for its num_classes, and {type(data).__name__} has none")
        self.probe = RidgeProbe(classes, self.penalty)
        self.metric = MulticlassAccuracy(classes, average="micro").to(pl_module.device)
        with isolate_rng():  # a loader of another library shuffles by the global generator
            loader = data.train_dataloader()
            limit = trainer.limit_train_batches
            count = limit if isinstance(limit, int) else ceil(limit * len(loader))
            for raw in islice(loader, count):
                batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(raw))
                self.probe.update(self._features(trainer, pl_module, batch[0]), _classes(batch[1]))
        self.probe.fit()

    def _answer(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any) -> None:
        scores = self.probe(self._features(trainer, pl_module, batch[0]))
        self.metric.update(scores.float().to(pl_module.device), _classes(batch[1]))

    @torch.no_grad()
    def _features(self, trainer: L.Trainer, pl_module: L.LightningModule, x: Tensor) -> Tensor:
        assert self._taps is not None
        with trainer.precision_plugin.forward_context():
            self._of(pl_module)(x)
        features = self._taps.pop().get(path := self._taps.paths[0])
        if features is None or features.ndim < 2:
            gives = "nothing" if features is None else tuple(features.shape)
            raise InputError(f"layer: {path} gives {gives}; accepted are (B, D), tokens (B, N, D) and maps")
        if features.ndim == 3:
            return features.mean(1)
        return features if features.ndim == 2 else features.flatten(2).mean(2)

    def _of(self, pl_module: L.LightningModule) -> nn.Module:
        if self.network == "student":
            return student_of(pl_module, self)
        teacher = getattr(pl_module, "teacher", None)
        if not isinstance(teacher, Frozen):
            raise InputError(
                f"network: LinearProbe shall probe the teacher, and {type(pl_module).__name__} has none; accepted here "
                "is student"
            )
        return teacher.module


def _classes(target: Tensor) -> Tensor:
    return target.argmax(-1) if target.ndim == 2 else target
