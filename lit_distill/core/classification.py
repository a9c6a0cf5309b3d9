"""Training, validation and testing of a student that classifies."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lit_distill.core.module import DistillModule
from lit_distill.core.outputs import Outputs
from lit_distill.core.term_gradients import TermGradients
from lit_distill.errors import InputError

Batch = tuple[Tensor, ...] | list[Tensor]


class ClassificationModule(TermGradients, DistillModule):
    """A student that learns to classify from terms that a subclass defines.

    Logs ``train/loss``, ``train/acc`` and ``train/<term>`` (unweighted), and for validation and test ``acc`` and
    ``ece`` (expected calibration error in 15 bins).

    Args:
        student: The network to train: inputs ``(B, ...)`` to logits ``(B, C)``.
        input_shape: Shape of one input without the batch axis, for the dry run that builds projectors; the CLI
            links it to the data. Default: known from the data module when training starts.
    """

    def __init__(self, student: nn.Module, input_shape: tuple[int, ...] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.student = student
        self.input_shape = tuple(input_shape) if input_shape is not None else None
        self.metrics = nn.ModuleDict()
        self.last_terms: dict[str, Tensor] = {}

    #: The metric that says how good a student is, and what tables call it.
    measure = "acc"
    measure_name = "accuracy"

    def build(self) -> None:
        """Do the dry run if the input's shape is known already; a subclass's constructor ends with this."""
        if self.input_shape is not None:
            self.dry_run(self.input_shape)

    def dry_run(self, input_shape: tuple[int, ...]) -> None:
        """Examine the networks, and create the metrics for as many classes as the student answers.

        Args:
            input_shape: Shape of one input without the batch axis.

        Raises:
            InputError: When the student does not answer with logits ``(B, C)``.
        """
        logits = self.examine(input_shape)
        if logits.ndim != 2:
            raise InputError(f"student: answers with shape {tuple(logits.shape)}; accepted are logits (B, C)")
        self.num_classes = logits.shape[1]
        for stage in ("val", "test"):
            self.metrics[stage] = nn.ModuleDict(self.build_metrics(logits.shape[1]))

    def examine(self, input_shape: tuple[int, ...]) -> Tensor:
        """The student's logits for an input of zeros; a subclass examines its other networks here too.

        Args:
            input_shape: Shape of one input without the batch axis.

        Raises:
            InputError: When a network does not take such an input.
        """
        return self.logits_of(example_forward(self.student, input_shape, "student"))

    def logits_of(self, answer: Any) -> Tensor:
        """Logits ``(B, C)`` in what a network answers: all of it; a task whose networks answer otherwise overrides it.

        Args:
            answer: What a network answered, in eval mode.
        """
        return answer

    def build_metrics(self, num_classes: int) -> dict[str, Metric]:
        """The metrics of validation and test by name; each takes logits and class indices.

        Args:
            num_classes: The number of classes.
        """
        return {
            "acc": MulticlassAccuracy(num_classes, average="micro"),
            "ece": MulticlassCalibrationError(num_classes),
        }

    def setup(self, stage: str) -> None:
        """Do the dry run now if the input's shape was not given, and compare the classes with the data's.

        Raises:
            InputError: When the shape is not known, or the student answers fewer classes than the data has.
        """
        datamodule = getattr(self.trainer, "datamodule", None)
        if self.input_shape is None:
            shape = getattr(datamodule, "input_shape", None)
            if shape is None:
                raise InputError(
                    f"input_shape: not given to {type(self).__name__}, and the data has none; give the shape of one "
                    "input, e.g. input_shape=(3, 32, 32)"
                )
            self.input_shape = tuple(shape)
            self.hparams["input_shape"] = self.input_shape  # or load_from_checkpoint would not build the terms
            self.dry_run(self.input_shape)
        classes = getattr(datamodule, "num_classes", None)
        if classes is not None and classes > self.num_classes:
            raise InputError(f"student: answers {self.num_classes} classes, and the data has {classes}")

    def forward(self, x: Tensor) -> Tensor:
        """The student's logits ``(B, C)``."""
        return self.student(x)

    def forward_student(self, x: Tensor) -> Outputs:
        """What the student says about a batch."""
        return Outputs(self.logits_of(self.student(x)))

    def terms(self, batch: Batch) -> tuple[Outputs, dict[str, Tensor]]:
        """What the student said, and the unweighted terms of the objective on this batch."""
        raise NotImplementedError(f"{type(self).__name__} must implement terms(batch)")

    def weight_of(self, term: str) -> float:
        """Factor of a term in the total."""
        return 1.0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the terms."""
        x, target = batch[0], batch[1]
        student, terms = self.terms(batch)
        share = self.share(len(x))
        none = NoGradient.apply(student.logits)
        self.last_terms = {name: self.weight_of(name) * value * share + none for name, value in terms.items()}
        loss = torch.stack(list(self.last_terms.values())).sum()
        self.stop_at_nan(loss, terms)
        logged = {f"train/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(logged, prog_bar=True, batch_size=len(x))
        measured = self.training_metrics(student.logits.detach(), target)
        measured = {f"train/{name}": value for name, value in measured.items()}
        self.log_dict({"train/loss": loss.detach()} | measured, batch_size=len(x))
        return loss

    def training_metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What a training step logs beside its terms: the accuracy on its batch.

        Args:
            logits: What the student answered, ``(B, C)``.
            target: Class indices ``(B,)`` or class probabilities ``(B, C)``.
        """
        labels = target.argmax(-1) if target.ndim == 2 else target
        return {"acc": (logits.argmax(-1) == labels).float().mean()}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Drop the terms, whose graphs would otherwise live until the next step."""
        self.last_terms = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update and log the validation metrics."""
        self.evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update and log the test metrics."""
        self.evaluate(batch, "test")

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """The student's logits ``(B, C)``."""
        return self(batch if isinstance(batch, Tensor) else batch[0])

    def evaluate(self, batch: Batch, stage: str) -> None:
        """Update and log this stage's metrics on one batch."""
        self.update_metrics(stage, self.student(batch[0]), batch[1], ("acc", "ece"))

    def update_metrics(self, stage: str, logits: Tensor, target: Tensor, names: tuple[str, ...]) -> None:
        """Update and log the named metrics of a stage."""
        metrics = self.metrics[stage]
        for name in names:
            metrics[name].update(logits.float(), target)  # type: ignore[index]
            self.log(f"{stage}/{name}", metrics[name], prog_bar=name == self.measure, batch_size=len(target))  # type: ignore[index]


class NoGradient(torch.autograd.Function):
    """Zero, whose gradient is zero: makes every output of the student a part of every term.

    Data-parallel wrappers wait for a gradient of all that a network returned. Terms that read features alone would
    leave the classifier without one: DDP then refuses the next step, and FSDP2 never reduces the student's gradients.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        """A scalar 0."""
        ctx.shape = logits.shape
        return logits.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Zeros of the logits' shape."""
        return gradients[0].new_zeros(ctx.shape)


def example_forward(network: nn.Module, shape: tuple[int, ...], name: str) -> Tensor:
    """What ``network`` says about two inputs of zeros, in eval mode and without gradients.

    Args:
        network: The network.
        shape: Shape of one input without the batch axis.
        name: What the message calls the network.

    Raises:
        InputError: When the network does not take such an input.
    """
    parameter = next(network.parameters(), torch.zeros(()))
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            return network(torch.zeros(2, *shape, device=parameter.device, dtype=parameter.dtype))
    except InputError:
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{name}: {type(network).__name__} does not take inputs of shape {shape}: {reason}") from error
    finally:
        for module, mode in modes:
            module.training = mode
