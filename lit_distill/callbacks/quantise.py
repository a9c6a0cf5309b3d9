"""Quantised students, added to any run."""

from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torchmetrics import Metric

from lit_distill.callbacks.student import student_of
from lit_distill.core.classification import ClassificationModule
from lit_distill.errors import InputError
from lit_distill.loading import is_call
from lit_distill.quantisation import as_int8, quantised, unquantised, with_learnt_points
from lit_distill.quantisation.attach import check


class Quantisation(L.Callback):
    """Quantises the student before training, and tests the 8-bit network that it stands for beside it.

    Args:
        settings: Arguments of :attr:`function` beside the network.
    """

    #: What quantises a network, in :mod:`lit_distill.models`.
    function: Callable[..., nn.Module] = staticmethod(quantised)

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self._student: nn.Module | None = None
        self._int8: nn.Module | None = None
        self._metrics: dict[str, Metric] = {}

    def quantise(self, student: nn.Module) -> None:
        """Change a student into what this callback trains.

        Args:
            student: The network.
        """
        self.function(student, **self.settings)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Quantise the student, once."""
        student = student_of(pl_module, self)
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise InputError(
                f"trainer.strategy: {type(self).__name__} cannot scale weights that are sharded; accepted is ddp"
            )
        if student is self._student:
            return
        self.quantise(student)
        self._student = student
        if is_call(own := pl_module.hparams.get("student")):  # what the network is built from: cards and checkpoints
            init_args = {"model": own, **self.settings}
            pl_module.hparams["student"] = {
                "class_path": f"lit_distill.models.{self.function.__name__}",
                "init_args": init_args,
            }

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the 8-bit network, after a callback such as ``StudentEMA`` has put other weights in the student."""
        if isinstance(pl_module, ClassificationModule):
            self._int8 = as_int8(pl_module.student)
            own: Metric = pl_module.metrics["test"][pl_module.measure]  # type: ignore[index]
            self._metrics = {name: own.clone() for name in ("int8", "float")}
            for metric in self._metrics.values():
                metric.reset()

    @torch.no_grad()
    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask the 8-bit network and the one without rounding what the student was asked."""
        if self._int8 is None:
            return
        assert isinstance(pl_module, ClassificationModule)
        with trainer.precision_plugin.test_step_context():
            answers: dict[str, Tensor] = {"int8": self._int8(batch[0])}
            with unquantised(pl_module.student):
                answers["float"] = pl_module.student(batch[0])
        for name, answer in answers.items():
            self._metrics[name].update(pl_module.logits_of(answer).float(), batch[1])

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log both, over all ranks."""
        if isinstance(pl_module, ClassificationModule):
            for name, metric in self._metrics.items():
                pl_module.log(f"test/{name}_{pl_module.measure}", metric.compute().to(pl_module.device))
        self._int8, self._metrics = None, {}


class FakeQuantise(Quantisation):
    r"""Trains the student with rounded weights and inputs: quantised distillation, added to any preset.

    Paper: Polino, Pascanu, Alistarh, Model compression via distillation and quantization, ICLR 2018,
    https://arxiv.org/abs/1802.05668

    Before training the student becomes :func:`lit_distill.models.quantised` of itself: linear and convolution layers
    round their weights, and what they get, in every forward pass,

    .. math:: Q(v) = a \, \frac{\mathrm{round}\big(L \, (v - b) / a\big)}{L} + b, \qquad
        \frac{\partial \ell}{\partial v} := \frac{\partial \ell}{\partial Q(v)}

    and the optimizer moves the weights before rounding. Layers keep their paths, so that every loss works as before.
    ``test/acc`` is the accuracy with rounding, ``test/int8_acc`` that of the network with 8-bit integers in it, which
    ``lit-distill export`` writes, and ``test/float_acc`` that of the same weights without rounding; all three are in
    the student's card.

    In Python, :func:`lit_distill.models.quantised` around the student does the same without a callback.

    Args:
        bits: Binary digits of a weight, from 2 to 8.
        input_bits: Binary digits of what these layers get, from 2 to 8: steps between the running means of each batch's
            least and largest value. ``null`` leaves the inputs alone, as the paper does.
        bucket: How many consecutive weights share a scale; the paper: 256. Default: all that make one output (channel).
        scaling: ``absmax`` has ``2 ** (bits - 1) - 1`` steps on either side of 0, up to the largest absolute value;
            ``linear``, the paper's, has ``2 ** bits - 1`` steps from the least to the largest weight.
        skip: Paths of layers that stay as they are, such as the first and the last.

    Raises:
        InputError: When an argument is out of range, ``skip`` names no layer, the student has no layer to quantise or
            is quantised already, or it is sharded.

    Traps:
        - On several processes the range of inputs is that of rank 0's samples, as BatchNorm's statistics are.
        - A checkpoint is read by a run with this callback: in the state dict a ``weight`` has become
          ``parametrizations.weight.original``.
        - Digits below 8 are trained, and written as 8-bit integers all the same.

    Code: ``antspy/quantized_distillation:cnn_models/conv_forward_model.py`` (train_model); it rounds biases and
        normalisation as well.
    """

    def __init__(
        self,
        bits: int = 8,
        input_bits: int | None = 8,
        bucket: int | None = None,
        scaling: Literal["absmax", "linear"] = "absmax",
        skip: list[str] | None = None,
    ) -> None:
        check(bits, input_bits, bucket, scaling=scaling)
        numbers = {"bits": bits, "input_bits": input_bits, "bucket": bucket}
        super().__init__({**numbers, "scaling": scaling, "skip": skip})


class LearnPoints(Quantisation):
    r"""Trains the points that the student's fixed weights are rounded to: differentiable quantisation.

    Paper: Polino, Pascanu, Alistarh, Model compression via distillation and quantization, ICLR 2018,
    https://arxiv.org/abs/1802.05668

    Before training the student becomes :func:`lit_distill.models.with_learnt_points` of itself: each linear or
    convolution layer has a list of points, each weight takes the value of the nearest one,

    .. math:: Q(v) = a \, p_k + b, \quad k = \arg\min_j \Big| p_j - \frac{v - b}{a} \Big|, \qquad
        \frac{\partial \ell}{\partial p_j} = \sum_{v \,:\, k(v) = j} a \, \frac{\partial \ell}{\partial Q(v)}

    and the points are all that is trained. Give the student trained weights, as ``lit_distill.models.restored`` reads
    them. Layers keep their paths; metrics and files are those of :class:`FakeQuantise`.

    Args:
        bits: A layer has ``2 ** bits`` points; from 2 to 8. The paper: 2 and 4.
        input_bits: Binary digits of what these layers get, from 2 to 8: steps between the running means of each batch's
            least and largest value. ``null`` leaves the inputs alone, as the paper does.
        bucket: How many consecutive weights share a scale; the paper: 256. Default: all that make one output (channel).
        initial: Where the points begin: at ``quantiles`` of the weights, so that all are used, or ``uniform``.
        skip: Paths of layers that stay as they are.

    Raises:
        InputError: When an argument is out of range, ``skip`` names no layer, the student has no layer to quantise or
            is quantised already, or it is sharded.

    Traps:
        - A student with random weights learns next to nothing.
        - Statistics of BatchNorm go on following the batches, though no parameter of BatchNorm is trained.
        - The points are numbers between 0 and 1: decay of weights would draw them to 0.

    Code: ``antspy/quantized_distillation:cnn_models/conv_forward_model.py`` (optimize_quantization_points), which has a
        learning rate of 1e-5 with SGD and Nesterov momentum.
    """

    function = staticmethod(with_learnt_points)

    def __init__(
        self,
        bits: int = 4,
        input_bits: int | None = None,
        bucket: int | None = None,
        initial: Literal["quantiles", "uniform"] = "quantiles",
        skip: list[str] | None = None,
    ) -> None:
        check(bits, input_bits, bucket, initial=initial)
        numbers = {"bits": bits, "input_bits": input_bits, "bucket": bucket}
        super().__init__({**numbers, "initial": initial, "skip": skip})
