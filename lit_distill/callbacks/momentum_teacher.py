"""A teacher that is the moving average of its student."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lit_distill.callbacks.averaging import follow, is_half, like, rank, tensors, whole
from lit_distill.callbacks.student import student_of
from lit_distill.core.frozen import Frozen
from lit_distill.errors import InputError


class MomentumTeacher(L.Callback):
    r"""Makes the teacher the exponential moving average of the student: a mean teacher.

    Paper: Tarvainen, Valpola, Mean teachers are better role models, NIPS 2017, https://arxiv.org/abs/1703.01780

    The teacher has the student's architecture and begins as a copy of the student. After every optimizer step (not
    every micro-batch of an accumulated one) its parameters and buffers :math:`\theta'` follow the student's
    :math:`\theta`; at the step :math:`t = 1, 2, \dots` of :math:`N`

    .. math:: \theta' \leftarrow d_t \theta' + (1 - d_t) \theta, \qquad
        d_t = \min\Big( 1 - \frac{1}{t + 1}, \;
        \text{end} - (\text{end} - \text{decay}) \frac{1 + \cos(\pi (t - 1) / N)}{2} \Big)

    Without ``end`` the second term is ``decay``. The first one, which ``warmup: false`` takes away, makes the teacher
    the plain mean of all students so far until ``decay`` forgets faster. DINO (Caron et al., Emerging Properties in
    Self-Supervised Vision Transformers, ICCV 2021, https://arxiv.org/abs/2104.14294) has decay 0.996, end 1 and no
    warm-up.

    Running statistics of BatchNorm are averaged like parameters, for the teacher answers in eval mode; integers are
    copied. Half-precision weights are averaged in float32, at the price of one more copy of them. Checkpoints hold the
    teacher in this callback's state, so that a resumed run equals an uninterrupted one; under FSDP2 the teacher is
    sharded like the student, and rank 0's running statistics count.

    The student stays the student: what a run writes and reports as such is not the average. ``val/teacher_acc`` is that
    of the average; a :class:`StudentEMA` beside this one puts an average in the student's place.

    Args:
        decay: How much of the teacher each step keeps, in [0, 1].
        end: The decay that ``decay`` moves to until the end of training, along half a cosine. Default: it does not
            move.
        warmup: Begin with the plain mean of all students so far.

    Raises:
        InputError: When an argument is out of range, the module has no teacher of the student's architecture, a
            checkpoint holds another teacher, or ``end`` is given and training has no end.

    Traps:
        - Student and teacher must differ in something, or they agree from the start: views (``PairedViews``),
          dropout, stochastic depth.
        - The authors' teacher answers in train mode, with dropout and the statistics of its own batch.
        - A teacher written to disk before training (``restored``) is forgotten: the student's weights replace it.

    Code: ``CuriousAI/mean-teacher:pytorch/main.py`` (update_ema_variables); ``facebookresearch/dino:main_dino.py``.
        Both average parameters alone, for their teachers have running statistics of their own.

    Example:
        >>> teacher = MomentumTeacher(decay=0.99)
        >>> [round(teacher.decay_at(step), 3) for step in (1, 2, 3, 1000)]
        [0.5, 0.667, 0.75, 0.99]
    """

    def __init__(self, decay: float = 0.999, end: float | None = None, warmup: bool = True) -> None:
        for name, value in (("decay", decay), ("end", end)):
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name}: {value} given to MomentumTeacher; accepted is a number in [0, 1]")
        self.decay = decay
        self.end = end
        self.warmup = warmup
        self._teacher: nn.Module | None = None
        self._saved: dict[str, Tensor] | None = None
        self._precise: dict[str, Tensor] = {}  # in float32 what the teacher has in half precision
        self._step = 0
        self._steps = math.inf

    def decay_at(self, step: int) -> float:
        """How much of the teacher is kept after an optimizer step.

        Args:
            step: The step, counted from 1.
        """
        decay = self.decay
        if self.end is not None:
            decay = self.end - (self.end - decay) * (1 + math.cos(math.pi * (step - 1) / self._steps)) / 2
        return min(decay, 1 - 1 / (step + 1)) if self.warmup else decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there is a teacher of the student's architecture."""
        student, teacher = student_of(pl_module, self), getattr(pl_module, "teacher", None)
        if not isinstance(teacher, Frozen):
            raise InputError(
                f"callbacks: MomentumTeacher needs a {type(pl_module).__name__} with a teacher of the student's "
                f"architecture, {type(student).__name__}"
            )
        self._teacher = teacher.module
        mine, yours = ({n: tuple(v.shape) for n, v in tensors(net).items()} for net in (self._teacher, student))
        if odd := [name for name in {**yours, **mine} if mine.get(name) != yours.get(name)]:
            raise InputError(
                f"teacher: MomentumTeacher needs the student's architecture, and {odd[0]} is {mine.get(odd[0])} in the "
                f"teacher but {yours.get(odd[0])} in the student"
            )
        if stage == "fit":
            self._saved = None

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the teacher from a checkpoint; one without a teacher brings the student to begin from."""
        self._saved = checkpoint["callbacks"].get(self.state_key, {}).get("teacher")
        self._begin(student_of(pl_module, self))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin as a copy of the student, or where the checkpoint ended; only now precision and device are final."""
        self._begin(student_of(pl_module, self))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find out how long training is."""
        self._saved = None
        if self.end is None:
            return
        self._steps = trainer.estimated_stepping_batches
        if self._steps == math.inf or self._steps <= 0:
            raise InputError(
                "max_steps: training has no end, so the decay of MomentumTeacher has none to move to; set "
                "trainer.max_epochs for a data set with a length, trainer.max_steps otherwise"
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember how many steps the optimizer had taken."""
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follow the student if the optimizer took a step."""
        if trainer.global_step == self._step:
            return
        average, student = self._average(), tensors(student_of(pl_module, self))
        follow(average, {name: student[name] for name in average}, self.decay_at(trainer.global_step))
        live = self._own()
        for name, value in self._precise.items():
            live[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The teacher, for the checkpoint."""
        if self._teacher is None:
            return {}
        average = self._average()
        if torch.distributed.is_initialized():
            # A rank's running statistics follow its own student's. All ranks go on with those that a resumed run has.
            for name in sorted(average.keys() & dict(self._teacher.named_buffers()).keys()):
                torch.distributed.broadcast(average[name], src=0)
        state = {name: whole(value).to("cpu", copy=True) for name, value in average.items()}
        # Every rank helps to gather, and only rank 0 writes.
        return {"teacher": state} if rank() == 0 else {}

    @torch.no_grad()
    def _begin(self, student: nn.Module) -> None:
        live, state = self._own(), tensors(student) if self._saved is None else self._saved
        if odd := sorted(live.keys() - state.keys()):
            raise InputError(
                f"ckpt_path: its MomentumTeacher was of another architecture ({odd[0]} is missing); resume with the "
                "same student and teacher, or without MomentumTeacher"
            )
        self._precise = {}
        for name, value in live.items():
            given = like(state[name], value)
            value.copy_(given)
            if is_half(value):
                self._precise[name] = given.to(torch.float32, copy=True)

    def _own(self) -> dict[str, Tensor]:
        """The teacher's own tensors, each once: one that two layers share would be averaged twice."""
        assert self._teacher is not None
        once = dict([*self._teacher.named_parameters(), *self._teacher.named_buffers()])
        return {name: value for name, value in tensors(self._teacher).items() if name in once}

    def _average(self) -> dict[str, Tensor]:
        """The average, in float32 where the teacher has only half precision."""
        return self._own() | self._precise
