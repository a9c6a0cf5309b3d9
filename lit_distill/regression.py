r"""Self-distillation in closed form: ridge regression whose students learn from labels and from their teacher.

A model of generation 0 is fitted to the labels :math:`y`; each later one has the same inputs and the same
regularisation, and is fitted to a mixture of the labels and the answers of the generation before:

.. math:: \theta_k = \arg\min_\theta \; \xi_k \| X \theta - X \theta_{k-1} \|^2
    + (1 - \xi_k) \| X \theta - y \|^2 + \lambda \| \theta \|^2

The imitation :math:`\xi` is the weight of the teacher, :math:`\alpha = 1 - \xi` that of the labels; neither need
lie in [0, 1]. For classifiers the same two weights are those of ``KD`` and ``CrossEntropy`` in one ``Distiller``, and
:func:`optimal_alpha` estimates the best ones from two trained students.

All solve in float64 and answer in the precision they were given.

Pareek, Du, Oh, Understanding the Gains from Repeated Self-Distillation, NeurIPS 2024,
https://arxiv.org/abs/2407.04600; Borup, Andersen, Even your Teacher Needs Guidance: Ground-Truth Targets Dampen
Regularization Imposed by Self-Distillation, NeurIPS 2021, https://arxiv.org/abs/2102.13088
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_distill.errors import InputError


def self_distilled_ridge(x: Tensor, y: Tensor, lam: float, xis: Sequence[float] = ()) -> Tensor:
    r"""Ridge regression after as many generations of self-distillation as there are imitations.

    With :math:`\theta_0 = (X^\top X + \lambda I)^{-1} X^\top y` and :math:`A = (X^\top X + \lambda I)^{-1} X^\top X`,

    .. math:: \theta_k = \xi_k A \theta_{k-1} + (1 - \xi_k) \theta_0

    Along an eigenvector of :math:`X^\top X` with eigenvalue :math:`s`, full imitation (:math:`\xi = 1`) multiplies by
    :math:`s / (s + \lambda)` once more in every generation: it amplifies the regularisation, most where the data vary
    least.

    Args:
        x: Inputs, ``(N, D)``.
        y: Labels, ``(N,)`` or ``(N, C)``.
        lam: Weight of the regularisation; positive.
        xis: Weight of the teacher in each generation after the first; none is plain ridge regression.

    Returns:
        The coefficients, ``(D,)`` or ``(D, C)``.

    Raises:
        InputError: If the shapes do not fit or ``lam`` is not positive.

    Example:
        >>> x, y = torch.tensor([[1.0], [1.0]]), torch.tensor([2.0, 4.0])
        >>> self_distilled_ridge(x, y, lam=2.0), self_distilled_ridge(x, y, lam=2.0, xis=[1.0])
        (tensor([1.5000]), tensor([0.7500]))
    """
    _check(x, y, lam)
    inputs, labels = x.double(), y.double()
    gram = inputs.mT @ inputs
    gram.diagonal().add_(lam)
    first = theta = torch.linalg.solve(gram, inputs.mT @ labels)
    for xi in xis:
        theta = xi * torch.linalg.solve(gram, inputs.mT @ (inputs @ theta)) + (1 - xi) * first
    return theta.to(y.dtype)


def self_distilled_kernel_ridge(kernel: Tensor, y: Tensor, lam: float, alphas: Sequence[float] = ()) -> Tensor:
    r"""Kernel ridge regression after as many generations of self-distillation as there are weights of the labels.

    .. math:: c_k = (K + \lambda I)^{-1} \big( \alpha_k y + (1 - \alpha_k) K c_{k-1} \big), \qquad
        c_0 = (K + \lambda I)^{-1} y

    The model is :math:`f(x) = \sum_i k(x, x_i) \, c_i`. With a constant :math:`\alpha > 0` the generations converge
    to plain regression with :math:`\lambda / \alpha` instead of :math:`\lambda`; without labels (:math:`\alpha = 0`)
    they tend to 0. Code: ``Kennethborup/self_distillation:toy_example.ipynb``.

    Args:
        kernel: Kernel of every pair of training inputs, ``(N, N)``.
        y: Labels, ``(N,)`` or ``(N, C)``.
        lam: Weight of the regularisation; positive.
        alphas: Weight of the labels in each generation after the first; none is plain kernel ridge regression.

    Returns:
        The dual coefficients, ``(N,)`` or ``(N, C)``: the kernel of new inputs with the training inputs, ``(M, N)``,
        times these are the predictions.

    Raises:
        InputError: If the shapes do not fit or ``lam`` is not positive.

    Example:
        >>> y = torch.tensor([1.0, 3.0])
        >>> self_distilled_kernel_ridge(torch.eye(2), y, lam=1.0, alphas=[0.5])
        tensor([0.3750, 1.1250])
    """
    _check(kernel, y, lam)
    if kernel.shape[0] != kernel.shape[1]:
        raise InputError(f"kernel must be square (N, N), got {tuple(kernel.shape)}")
    pairs, labels = kernel.double(), y.double()
    ridged = pairs.clone()
    ridged.diagonal().add_(lam)
    dual = torch.linalg.solve(ridged, labels)
    for alpha in alphas:
        dual = torch.linalg.solve(ridged, alpha * labels + (1 - alpha) * pairs @ dual)
    return dual.to(y.dtype)


def optimal_alpha(y: Tensor, taught_by_labels: Tensor, taught_by_teacher: Tensor) -> float:
    r"""The weight of the labels with which a student would predict best, from two students.

    A kernel regression is linear in what it is fitted to: a student of the mixture of labels and teacher is the
    mixture of a student of the labels alone, with predictions :math:`f_1`, and of a student of the teacher alone,
    :math:`f_0`. The squared error :math:`\| y - \alpha f_1 - (1 - \alpha) f_0 \|^2` is smallest at

    .. math:: \alpha^\star = \frac{\langle y - f_0, \, f_1 - f_0 \rangle}{\| f_1 - f_0 \|^2}

    For networks this holds approximately; two trainings take the place of a grid search. A label is then one-hot and
    a prediction a vector of probabilities.

    Args:
        y: Labels of a validation set, any shape.
        taught_by_labels: What the student of the labels alone predicts for it, of the shape of ``y``.
        taught_by_teacher: What the student of the teacher alone predicts.

    Returns:
        The weight of the labels, perhaps outside [0, 1]; that of the teacher is 1 minus it. 1 where both students
        agree and every weight is as good.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> optimal_alpha(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0]), torch.tensor([0.0, 0.0]))
        0.5
    """
    if not y.shape == taught_by_labels.shape == taught_by_teacher.shape:
        raise InputError(
            f"labels and predictions must have one shape, got {tuple(y.shape)}, {tuple(taught_by_labels.shape)} and "
            f"{tuple(taught_by_teacher.shape)}"
        )
    base = taught_by_teacher.double()
    apart = taught_by_labels.double() - base
    square = apart.square().sum()
    return 1.0 if square == 0 else ((y.double() - base) * apart).sum().div(square).item()


def excess_risk(x: Tensor, theta: Tensor, noise: float, lam: float, xis: Sequence[float] = ()) -> float:
    r"""How far self-distilled ridge regression predicts from the truth on average over the labels' noise.

    Labels are :math:`y = X \theta^\star + \eta` with independent noise of variance :math:`\gamma^2`; the inputs are
    fixed. With singular values :math:`\sigma_j` and right singular vectors :math:`u_j` of :math:`X`,
    :math:`w_j = \sigma_j^2 \langle u_j, \theta^\star \rangle^2`, :math:`a_j = \sigma_j^2 / (\sigma_j^2 + \lambda)` and
    :math:`q_j`, the polynomial in :math:`a_j` by which distillation multiplies,

    .. math:: \mathbb{E} \frac{1}{N} \| X \hat\theta - X \theta^\star \|^2
        = \frac{1}{N} \sum_j w_j (1 - q_j a_j)^2 + \gamma^2 q_j^2 a_j^2

    Args:
        x: Inputs, ``(N, D)``.
        theta: The true coefficients, ``(D,)``.
        noise: Variance of the labels' noise, :math:`\gamma^2`.
        lam: Weight of the regularisation; positive.
        xis: Weight of the teacher in each generation after the first.

    Raises:
        InputError: If the shapes do not fit, ``lam`` is not positive, or ``noise`` is negative.

    Example:
        >>> excess_risk(torch.eye(2), torch.tensor([1.0, 0.0]), noise=1.0, lam=1.0)
        0.375
    """
    signal, a = _spectrum(x, theta, noise, lam)
    q = torch.ones_like(a)
    for xi in xis:
        q = xi * a * q + (1 - xi)
    return (signal * (1 - q * a).square() + noise * (q * a).square()).sum().div(len(x)).item()


def optimal_xi(x: Tensor, theta: Tensor, noise: float, lam: float, steps: int = 1) -> list[float]:
    r"""The imitations of which the :func:`excess_risk` is smallest, for known truth and noise.

    After :math:`k` generations :math:`q_j = 1 - \sum_{i=1}^k \bar\xi_i (1 - a_j^i)` with

    .. math:: \bar\xi_i = (1 - \xi_{k-i}) \prod_{l=k-i+1}^k \xi_l, \qquad \xi_0 = 0

    so the risk is a quadratic function of :math:`\bar\xi`, with its minimum at :math:`\bar\xi^\star = M^{-1} m`, where
    :math:`B_{ji} = a_j (1 - a_j^i)` and

    .. math:: M = B^\top \mathrm{diag}(w_j + \gamma^2) B, \qquad m = B^\top (\gamma^2 a - (1 - a) w)

    As many generations as :math:`X` has different singular values reach the best possible factor in every direction,
    :math:`q_j a_j = w_j / (w_j + \gamma^2)`; more gain nothing. Singular values that are close together ask for huge
    imitations. At the :math:`\lambda` that is best for plain ridge regression one generation gains nothing
    (:math:`\xi^\star = 0`): tune both together.

    Args:
        x: Inputs, ``(N, D)``.
        theta: The true coefficients, ``(D,)``.
        noise: Variance of the labels' noise, :math:`\gamma^2`.
        lam: Weight of the regularisation; positive.
        steps: Generations after the first.

    Returns:
        Weight of the teacher in each generation after the first, for :func:`self_distilled_ridge`.

    Raises:
        InputError: If the shapes do not fit, ``lam`` is not positive, ``noise`` is negative, or ``steps`` is below 1.

    Example:
        >>> x, theta = torch.diag(torch.tensor([2.0, 1.0])), torch.tensor([1.0, 0.0])
        >>> [round(xi, 3) for xi in optimal_xi(x, theta, noise=1.0, lam=0.5)]
        [1.957]
    """
    signal, a = _spectrum(x, theta, noise, lam)
    away = a[:, None] * (1 - a[:, None] ** _exponents(steps, a.device))
    scale = (signal + noise).clamp_min(torch.finfo(a.dtype).tiny).sqrt()[:, None]
    wanted = (noise * a - signal * (1 - a))[:, None] / scale
    return _imitations((torch.linalg.pinv(scale * away) @ wanted)[:, 0])


def estimated_xi(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, lam: float, steps: int = 1) -> list[float]:
    r"""The imitations of which the squared error on a validation set is smallest.

    What :func:`optimal_xi` is without knowledge of the truth: with :math:`\theta_0` and :math:`A` as in
    :func:`self_distilled_ridge`, the least-squares solution of

    .. math:: \sum_{i=1}^k \bar\xi_i \, X_{val} (A^i - I) \theta_0 \approx y_{val} - X_{val} \theta_0

    Args:
        x: Inputs to train on, ``(N, D)``.
        y: Their labels, ``(N,)`` or ``(N, C)``.
        x_val: Inputs of the validation set, ``(M, D)``.
        y_val: Their labels, ``(M,)`` or ``(M, C)``.
        lam: Weight of the regularisation; positive.
        steps: Generations after the first.

    Returns:
        Weight of the teacher in each generation after the first, for :func:`self_distilled_ridge`.

    Raises:
        InputError: If the shapes do not fit, ``lam`` is not positive, or ``steps`` is below 1.

    Example:
        >>> x, y = torch.tensor([[1.0], [1.0]]), torch.tensor([2.0, 4.0])
        >>> [round(xi, 3) for xi in estimated_xi(x, y, x[:1], torch.tensor([1.0]), lam=2.0)]
        [0.667]
    """
    _check(x_val, y_val, lam)
    if x_val.shape[1] != x.shape[-1]:
        raise InputError(f"x_val must be (M, {x.shape[-1]}) as x is (N, {x.shape[-1]}), got {tuple(x_val.shape)}")
    said = [
        (x_val.double() @ self_distilled_ridge(x.double(), y.double(), lam, [1.0] * i)).flatten()
        for i in range(_exponents(steps).numel() + 1)
    ]
    moved = torch.stack([later - said[0] for later in said[1:]], dim=1)
    return _imitations(torch.linalg.pinv(moved) @ (y_val.double().flatten() - said[0]))


def _spectrum(x: Tensor, theta: Tensor, noise: float, lam: float) -> tuple[Tensor, Tensor]:
    if theta.shape != x.shape[1:] or x.ndim != 2:
        raise InputError(f"theta must be (D,) for inputs (N, D), got {tuple(theta.shape)} for inputs {tuple(x.shape)}")
    if noise < 0:
        raise InputError(f"noise must be a variance of at least 0, got {noise}")
    _check(x, x[:, 0], lam)
    _, sigma, vectors = torch.linalg.svd(x.double(), full_matrices=False)
    return (sigma * (vectors @ theta.double())).square(), sigma.square() / (sigma.square() + lam)


def _exponents(steps: int, device: torch.device | None = None) -> Tensor:
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    return torch.arange(1, steps + 1, dtype=torch.float64, device=device)


def _imitations(mixture: Tensor) -> list[float]:
    """From the weight of each power of A to the imitation of each generation, the last one first."""
    shares = [1 - mixture.sum().item(), *mixture.tolist()]
    xis, product = [], 1.0
    for share in shares[:-1]:
        # after a generation that ignores its teacher, those before it are of no importance
        xis.append(1 - share / product if product else 0.0)
        product *= xis[-1]
    return xis[::-1]


def _check(x: Tensor, y: Tensor, lam: float) -> None:
    if x.ndim != 2 or y.ndim not in (1, 2) or len(x) != len(y):
        raise InputError(
            f"inputs must be (N, D) and labels (N,) or (N, C) for the same N, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if not lam > 0:
        raise InputError(f"lam must be positive, got {lam}")
