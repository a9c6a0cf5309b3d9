"""Any network, with rounded weights and inputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import parametrize

from lit_distill.errors import InputError
from lit_distill.quantisation.inputs import InputQuantiser, round_input
from lit_distill.quantisation.weights import LearntPoints, Scaling, UniformWeight, WeightQuantiser

WORDS = {"scaling": ("absmax", "linear"), "initial": ("quantiles", "uniform")}
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def quantised(
    model: nn.Module,
    bits: int = 8,
    input_bits: int | None = 8,
    bucket: int | None = None,
    scaling: Scaling = "absmax",
    skip: list[str] | None = None,
) -> nn.Module:
    r"""``model`` with weights that are rounded in every forward pass: the student of quantised distillation.

    Polino, Pascanu and Alistarh, *Model compression via distillation and quantization*, ICLR 2018,
    https://arxiv.org/abs/1802.05668. Code: ``antspy/quantized_distillation:quantization/quant_functions.py``.

    .. math:: Q(v) = a \, \frac{\mathrm{round}\big(L \, (v - b) / a\big)}{L} + b

    for the weights :math:`v` of linear and convolution layers; span :math:`a`, start :math:`b` and the number of steps
    :math:`L` are explained at ``scaling``. The optimizer goes on moving the weights before rounding, with the gradient
    for the rounded ones. Normalisation and biases stay as they are; the paper rounds them too, and no layer's input,
    with ``bits=4, input_bits=None, bucket=256, scaling="linear"``.

    Paths of layers stay, so that features are found as before; in the state dict a ``weight`` becomes
    ``parametrizations.weight.original``.

    Args:
        model: Any network; it is changed and returned.
        bits: Binary digits of a weight, from 2 to 8.
        input_bits: Binary digits of what these layers get, from 2 to 8: steps between the running means of each batch's
            least and largest value. ``None`` leaves the inputs alone.
        bucket: How many consecutive weights share a scale. Default: all that make one output (channel).
        scaling: ``absmax`` has ``2 ** (bits - 1) - 1`` steps on either side of 0, up to the largest absolute value;
            ``linear`` has ``2 ** bits - 1`` steps from the least to the largest weight.
        skip: Paths of layers that stay as they are, such as the first and the last.

    Returns:
        The same ``model``.

    Raises:
        InputError: When an argument is out of range, ``skip`` names no layer, nothing is left to round, or the network
            is quantised already.

    Example:
        >>> network = quantised(nn.Linear(4, 2), bits=3, input_bits=None)
        >>> sorted(network.state_dict())
        ['bias', 'parametrizations.weight.original']
    """
    check(bits, input_bits, bucket, scaling=scaling)
    return _attached(model, lambda weight: UniformWeight(bits, bucket, scaling), input_bits, skip)


def with_learnt_points(
    model: nn.Module,
    bits: int = 4,
    input_bits: int | None = None,
    bucket: int | None = None,
    initial: Literal["quantiles", "uniform"] = "quantiles",
    skip: list[str] | None = None,
) -> nn.Module:
    r"""``model`` with fixed weights at points that are learnt: the student of differentiable quantisation.

    Polino, Pascanu and Alistarh, *Model compression via distillation and quantization*, ICLR 2018,
    https://arxiv.org/abs/1802.05668. Code: ``antspy/quantized_distillation:cnn_models/conv_forward_model.py``
    (optimize_quantization_points).

    .. math:: Q(v) = a \, p_k + b, \quad k = \arg\min_j \Big| p_j - \frac{v - b}{a} \Big|, \qquad
        \frac{\partial \ell}{\partial p_j} = \sum_{v \,:\, k(v) = j} a \, \frac{\partial \ell}{\partial Q(v)}

    where :math:`b` and :math:`b + a` are the least and the largest weight that share a scale. Each layer has its own
    points, and they alone are trained: all other parameters of ``model`` are frozen, so give it trained weights, as
    :func:`lit_distill.models.restored` reads them. The authors learn points for biases and normalisation too, and may
    give layers with larger gradients more points.

    Args:
        model: A trained network; it is changed and returned.
        bits: A layer has ``2 ** bits`` points; from 2 to 8. The paper: 2 and 4.
        input_bits: As for :func:`quantised`.
        bucket: How many consecutive weights share a scale. Default: all that make one output (channel). The paper: 256.
        initial: Where the points begin: at ``quantiles`` of the weights, so that all are used, or ``uniform``.
        skip: Paths of layers that stay as they are.

    Returns:
        The same ``model``.

    Raises:
        InputError: When an argument is out of range, ``skip`` names no layer, nothing is left to round, or the network
            is quantised already.

    Example:
        >>> network = with_learnt_points(nn.Linear(4, 2), bits=2)
        >>> [name for name, value in network.named_parameters() if value.requires_grad]
        ['parametrizations.weight.0.points']
    """
    check(bits, input_bits, bucket, initial=initial)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _attached(model, lambda weight: LearntPoints(bits, bucket, initial, weight), input_bits, skip)
    for parameter in trained:
        parameter.requires_grad_(False)
    return model


def is_quantised(model: nn.Module) -> bool:
    """Whether a network rounds its weights.

    Args:
        model: The network.
    """
    return any(isinstance(module, WeightQuantiser) for module in model.modules())


@contextmanager
def unquantised(model: nn.Module) -> Iterator[None]:
    """Within this context a quantised network rounds nothing.

    Args:
        model: The network.

    Example:
        >>> import torch
        >>> layer = nn.Linear(4, 2)
        >>> x, weight = torch.randn(3, 4), layer.weight.detach().clone()
        >>> with unquantised(quantised(layer, bits=2)):
        ...     torch.equal(layer.weight, weight)
        True
    """
    quantisers = [m for m in model.modules() if isinstance(m, WeightQuantiser | InputQuantiser)]
    for quantiser in quantisers:
        quantiser.enabled = False
    try:
        yield
    finally:
        for quantiser in quantisers:
            quantiser.enabled = True


def check(bits: int, input_bits: int | None, bucket: int | None, **choices: str) -> None:
    """Check the arguments that tell how to round.

    Args:
        bits: Binary digits of a weight.
        input_bits: Binary digits of an input.
        bucket: How many weights share a scale.
        choices: Arguments that take one of a few words, by name.

    Raises:
        InputError: When one is out of range.
    """
    if not 2 <= bits <= 8:
        raise InputError(f"bits: {bits} given; accepted are 2 to 8")
    if input_bits is not None and not 2 <= input_bits <= 8:
        raise InputError(f"input_bits: {input_bits} given; accepted are 2 to 8, or null for inputs as they are")
    if bucket is not None and bucket < 2:
        raise InputError(f"bucket: {bucket} given; accepted is a number of weights of at least 2, or null for channels")
    for name, choice in choices.items():
        if choice not in WORDS[name]:
            raise InputError(f"{name}: {choice!r} given; accepted are {' and '.join(WORDS[name])}")


def _attached(
    model: nn.Module,
    quantiser: Callable[[Tensor], WeightQuantiser],
    input_bits: int | None,
    skip: list[str] | None,
) -> nn.Module:
    if is_quantised(model):
        raise InputError(f"model: this {type(model).__name__} is quantised already; accepted is a network that is not")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, KINDS)}
    for path in skip or []:
        if path not in layers:
            near = get_close_matches(path, layers, n=5, cutoff=0.3) or list(layers)[:5]
            raise InputError(
                f"skip: {path!r} is no linear or convolution layer of {type(model).__name__}; near are "
                f"{', '.join(near) or 'none'}"
            )
        del layers[path]
    if not layers:
        raise InputError(f"model: {type(model).__name__} has no linear or convolution layer left to quantise")
    for layer in layers.values():
        if input_bits is not None:
            layer.input_quantiser = InputQuantiser(input_bits).to(layer.weight.device)
            layer.input_quantiser.train(layer.training)
            layer.register_forward_pre_hook(round_input)
        parametrize.register_parametrization(layer, "weight", quantiser(layer.weight).train(layer.training))
    return model
