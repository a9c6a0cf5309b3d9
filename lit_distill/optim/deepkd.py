"""DeepKD: momenta of their own for the labels, the target class and the other classes."""

from torch.optim.optimizer import ParamsT

from lit_distill.optim.term_sgd import TermSGD


class DeepKD(TermSGD):
    r"""SGD with a momentum for the task, one for what the teacher says of the label, and one for all other terms.

    Paper: Huang et al., DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer, NeurIPS 2025,
        https://arxiv.org/abs/2505.15133

    .. math:: v_k \leftarrow (m + \delta_k)\, v_k + g_k, \qquad k \in \{\text{task}, \text{target}, \text{others}\},
        \qquad p \leftarrow p - \eta \sum_k v_k

    The paper gives the higher momentum to gradients with the better ratio of signal to noise: those of the labels and
    of the classes other than the label. The two halves of ``DKD`` are terms of their own for this: ``DKD`` with
    :math:`\beta = 0` is the target's, ``DKD`` with :math:`\alpha = 0` belongs to the others. The weights decay with the
    gradients of the lowest momentum; a parameter that only one of the three reaches keeps the momentum m.

    In a preset it is ``optimizer: {class_path: DeepKD, init_args: {lr: 0.05}}``; how to use it in a loop of your own
    says :class:`~lit_distill.optim.TermSGD`.

    This is the optimizer of the paper; its other half, a mask of the classes that grows in training, is a matter of the
    term.

    Args:
        params: The parameters.
        lr: Learning rate.
        momentum: What the momenta start from, in [0, 1).
        task_delta: What to add to ``momentum`` for the task.
        target_delta: What to add to ``momentum`` for the label in the teacher's words.
        other_delta: What to add to ``momentum`` for all other terms: 0.05 in most of the authors' configs, up to 0.095
            in some.
        weight_decay: Factor of the weights in the gradient.
        task: Names of the terms that are the task.
        target: Names of the terms on the label in the teacher's words.

    Shape:
        Parameters of any shape. Three copies of them are its state; two more hold gradients until the step.

    Raises:
        InputError: When a number is out of range (every momentum must lie in [0, 1)), a name is that of no term, or a
            step is due and the gradients of the terms are not known.

    Traps:
        - Each step needs as many backward passes as there are different momenta.
        - In the authors' code the task has the target's momentum in every step but the first, whatever is set for it:
          ``task_delta: -0.075`` is what their published numbers were run with.
        - Steps grow as :math:`1 / (1 - m)`: with 0.975 in place of 0.9 they are 4 times as long in the end.

    Code: ``haiduo/DeepKD:mdistiller/engine/deepkd.py`` and ``trainer.py``, equal to this with ``task_delta`` set to
        ``target_delta``, but for weights that decay after two of the three updates and not before all.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        task_delta: float = 0.075,
        target_delta: float = -0.075,
        other_delta: float = 0.05,
        weight_decay: float = 0.0,
        task: tuple[str, ...] = ("ce",),
        target: tuple[str, ...] = ("tckd",),
    ) -> None:
        deltas = dict.fromkeys(task, task_delta) | dict.fromkeys(target, target_delta)
        super().__init__(params, lr, momentum, weight_decay, deltas, other_delta)
