"""DOT: a larger momentum for what the teacher says."""

from torch.optim.optimizer import ParamsT

from lit_distill.optim.term_sgd import TermSGD


class DOT(TermSGD):
    r"""SGD that remembers the teacher's gradients for longer than those of the labels.

    Paper: Zhao et al., DOT: A Distillation-Oriented Trainer, ICCV 2023, https://arxiv.org/abs/2307.08436

    .. math:: v_\text{task} \leftarrow (m - \Delta)\, v_\text{task} + g_\text{task} + \lambda p, \qquad
        v_\text{kd} \leftarrow (m + \Delta)\, v_\text{kd} + g_\text{kd}, \qquad
        p \leftarrow p - \eta\, (v_\text{task} + v_\text{kd})

    with the gradients of the task's terms and of all others, the momentum m, the learning rate :math:`\eta` and the
    weight decay :math:`\lambda`. The task gives way, and the distillation loss, which the paper finds optimised too
    little beside it, gets lower. A parameter that only one of the two reaches keeps the momentum m.

    In a preset it is ``optimizer: {class_path: DOT, init_args: {lr: 0.05}}``; how to use it in a loop of your own says
    :class:`~lit_distill.optim.TermSGD`. With :math:`\Delta = 0` it is ``torch.optim.SGD``, the fair comparison.

    Args:
        params: The parameters.
        lr: Learning rate.
        momentum: The mean of the two momenta.
        delta: Half their difference: 0.075 on CIFAR-100 and Tiny-ImageNet, 0.09 on ImageNet. A negative one favours the
            task.
        weight_decay: Factor of the weights in the task's gradient.
        task: Names of the terms that are the task.

    Shape:
        Parameters of any shape. Two copies of them are its state; a third holds the task's gradient until the step.

    Raises:
        InputError: When a number is out of range (both momenta must lie in [0, 1)), ``task`` names no term, or a step
            is due and the gradients of the terms are not known.

    Traps:
        - Each step needs two backward passes, and under ddp the ranks exchange both gradients after them, not during.
        - Steps grow to :math:`1 / (1 - m)` gradients: those of distillation are 4 times as long at 0.975 as at 0.9, so
          that a learning rate or weight that is right for SGD may be too high.
        - The authors' loop knows no clipping, accumulation, scaler or second rank; with all of these it is this one.

    Code: ``megvii-research/mdistiller:mdistiller/engine/dot.py`` and ``trainer.py``, equal to this but for parameters
        that distillation alone reaches: there they are not decayed in their first step.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
        task: tuple[str, ...] = ("ce",),
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, dict.fromkeys(task, -delta), delta)
