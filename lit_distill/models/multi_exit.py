"""A network that can answer before its end."""

from typing import cast

import torch
from torch import Tensor, nn

from lit_distill.core.taps import INPUT, Taps
from lit_distill.errors import InputError
from lit_distill.models.staged import init_fan_out


class ExitHead(nn.Module):
    """A bottleneck and a classifier on a feature of a network.

    A map passes convolutions of size 1, 3 (with stride 2) and 1, each with batch normalisation and ReLU, and is
    averaged; tokens are averaged, and pass two linear layers behind a layer normalisation, as a vector does. What the
    classifier sees is tapped at ``fc:input``.

    >>> ExitHead(torch.zeros(2, 16, 8, 8), width=64, classes=10)(torch.zeros(2, 16, 8, 8)).shape
    torch.Size([2, 10])

    Args:
        feature: Example of the feature: a map ``(B, D, H, W)``, tokens ``(B, N, D)`` or a vector ``(B, D)``.
        width: Length of the vector that the classifier sees.
        classes: Number of classes.
        name: What messages call the exit.

    Raises:
        InputError: The feature has another shape.
    """

    def __init__(self, feature: Tensor, width: int, classes: int, name: str = "exit") -> None:
        super().__init__()
        if feature.dim() not in (2, 3, 4):
            raise InputError(
                f"exits must leave at (B, D, H, W), (B, N, D) or (B, D), but {name} leaves at {tuple(feature.shape)}"
            )
        wide, middle = feature.shape[1 if feature.dim() == 4 else -1], max(width // 4, 1)
        if feature.dim() == 4:
            self.net = nn.Sequential(
                *_convolution(wide, middle, 1),
                *_convolution(middle, middle, 3, stride=2),
                *_convolution(middle, width, 1),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            )
        else:
            self.net = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, width), nn.GELU(), nn.Linear(width, width))
        self.fc = nn.Linear(width, classes)
        init_fan_out(self)
        self.to(device=feature.device, dtype=feature.dtype)

    def forward(self, feature: Tensor) -> Tensor:
        """``(B, D, H, W)``, ``(B, N, D)`` or ``(B, D)`` to logits ``(B, C)``."""
        return cast(Tensor, self.fc(self.net(feature.mean(1) if feature.dim() == 3 else feature)))


class MultiExit(nn.Module):
    """A network with further classifiers on the way, each of which can answer in its place.

    ``forward(x)`` gives the logits of the network itself, its deepest exit, so that everything works with it as with
    the network alone. Terms such as ``BYOT`` and ``Hierarchical`` train the exits, which are tapped: the logits of
    one at ``exits.<name>``, the vector that its classifier sees at ``exits.<name>.fc:input``, layers of the network at
    ``network.<path>``. The weights of the exits are a part of the student's.

    After training ``student.network`` is the network alone, which is all that is exported; :meth:`answers` gives the
    logits of all exits, their mean is an ensemble, and :class:`EarlyExit` answers with the first one that is sure.

    >>> from lit_distill.models import resnet8
    >>> student = MultiExit(resnet8(num_classes=10), {"early": "layer1", "middle": "layer2"}, input_shape=(3, 8, 8))
    >>> student(torch.zeros(2, 3, 8, 8)).shape, student.answers(torch.zeros(2, 3, 8, 8)).shape
    (torch.Size([2, 10]), torch.Size([3, 2, 10]))

    Args:
        network: The network: inputs ``(B, ...)`` to logits ``(B, C)``.
        exits: Where to leave it: name of the exit to the path of a module that gives a map, tokens or a vector.
        input_shape: Shape of one input without the batch axis, for the dry run that tells what the exits see.
        classifier: Path of the network's last linear layer: the classifiers of the exits are as wide. Default: where
            the network says itself, else ``fc``.

    Raises:
        InputError: No exits, a name that cannot be part of a path, or a path that names no module or one that does
            not give one tensor of such a shape; a classifier that is no linear layer; or the network does not take
            such inputs.
    """

    def __init__(
        self, network: nn.Module, exits: dict[str, str], input_shape: tuple[int, ...], classifier: str | None = None
    ) -> None:
        super().__init__()
        if not exits:
            raise InputError("exits must name at least one, as {name: path of a module of the network}")
        inputs = [path for path in exits.values() if path.endswith(INPUT)]
        if inputs:
            raise InputError(f"exits must leave at what a module gives, not at what it takes, {inputs[0]!r}")
        classifier = classifier or getattr(network, "classifier_path", "fc")
        last = dict(network.named_modules()).get(classifier)
        if not isinstance(last, nn.Linear):
            raise InputError(
                f"classifier must be the path of a linear layer of {type(network).__name__}, got {classifier!r}"
            )
        self.network = network
        features = self._features(exits, tuple(input_shape))
        #: Where each exit leaves the network, from shallow to deep whatever the order in ``exits``.
        self.paths = {name: path for path in features for name in exits if exits[name] == path}
        heads = {
            name: ExitHead(features[path], last.in_features, last.out_features, name)
            for name, path in self.paths.items()
        }
        try:
            self.exits = nn.ModuleDict(heads)
        except KeyError as error:
            raise InputError(f"exits: {error.args[0]}, choose another name") from error

    def _features(self, exits: dict[str, str], input_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """What the exits see of an input of zeros, in the order in which the network computes it."""
        parameter = next(self.network.parameters(), torch.zeros(()))
        training = [module for module in self.network.modules() if module.training]
        self.network.eval()
        try:
            self.taps = Taps(self.network, exits.values(), "network")
            with torch.no_grad(), self.taps.checked(self.network):
                self.network(torch.zeros(2, *input_shape, device=parameter.device, dtype=parameter.dtype))
        except InputError as error:
            raise InputError(f"exits: {str(error).removeprefix('layers: ')}") from None
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"input_shape: {type(self.network).__name__} does not take inputs of shape {input_shape}: {reason}"
            ) from error
        finally:
            for module in training:
                module.training = True
        return self.taps.pop()

    def answers(self, x: Tensor) -> Tensor:
        """Inputs ``(B, ...)`` to logits ``(E + 1, B, C)`` of all E exits from shallow to deep, and of the network."""
        logits = self.network(x)
        features = self.taps.pop()
        return torch.stack([*(self.exits[name](features[path]) for name, path in self.paths.items()), logits])

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``(B, ...)`` to the network's logits ``(B, C)``; the exits answer too, for who has tapped them."""
        if torch.compiler.is_exporting():  # nobody can tap what is exported
            logits: Tensor = self.network(x)
            self.taps.pop()
            return logits
        return self.answers(x)[-1]


def _convolution(wide_in: int, wide_out: int, size: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(wide_in, wide_out, size, stride=stride, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(wide_out), nn.ReLU()]
