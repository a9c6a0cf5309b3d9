"""What checks the golden values of dataset distillation; see golden_table."""

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from lit_distill.models import CondensationConvNet


class Golden(nn.Module):
    """The network of a case, whose parameters are the inputs ``weight.*`` themselves, with their gradients.

    Attributes:
        weights: The inputs by the names of the network's own parameters.
    """

    def __init__(self, case: Any) -> None:
        super().__init__()
        given = case.hyperparameters
        shape = (given["channel"], *given["im_size"])
        self.network = CondensationConvNet(shape, given["num_classes"], given["net_width"], given["net_depth"]).double()
        weights = [value for name, value in case.inputs.items() if name.startswith("weight.")]
        self.weights = dict(zip(self.network.state_dict(), weights, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.network, self.weights, (x,))


def convnet_forward(case: Any) -> dict[str, Tensor]:
    network = Golden(case)
    logits = network(case.inputs["x"])
    loss = nn.functional.cross_entropy(logits, case.inputs["y"])
    network.network.load_state_dict(network.weights)
    return {"loss": loss, "logits": logits, "embed": network.network.features(case.inputs["x"])}


DATASET = {
    "dataset/convnet_forward": convnet_forward,
    "dataset/convnet_forward_28": convnet_forward,
}
