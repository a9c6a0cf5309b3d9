"""Networks for small images, and wrappers that make a teacher of any network."""

from lit_distill.models.adapter import InputAdapter
from lit_distill.models.auxiliary_logits import AuxiliaryLogits
from lit_distill.models.bottleneck import CifarResNet50, resnet50
from lit_distill.models.compute import macs
from lit_distill.models.condensation_convnet import CondensationConvNet
from lit_distill.models.convnet import ConvNet
from lit_distill.models.early_exit import EarlyExit
from lit_distill.models.ensemble import Ensemble, MostConfident, RoutedEnsemble
from lit_distill.models.layer_views import default_layers, paired
from lit_distill.models.mlp import MLP
from lit_distill.models.mobilenet_v2 import CifarMobileNetV2, mobilenet_v2_half
from lit_distill.models.multi_exit import MultiExit
from lit_distill.models.pyramids import detector, segmenter
from lit_distill.models.random_weights import interpolated, seeded
from lit_distill.models.recipe import trained
from lit_distill.models.resnet import (
    CifarResNet,
    resnet8,
    resnet8x4,
    resnet14,
    resnet20,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet110,
)
from lit_distill.models.reused_classifier import ReusedClassifier
from lit_distill.models.shuffle_v1 import CifarShuffleNetV1, shufflenet_v1
from lit_distill.models.shuffle_v2 import CifarShuffleNetV2, shufflenet_v2
from lit_distill.models.staged import StagedNetwork
from lit_distill.models.vgg import CifarVGG, vgg8, vgg11, vgg13, vgg16, vgg19
from lit_distill.models.weights import read_weights, restored
from lit_distill.models.wrn import WideResNet, wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2
from lit_distill.quantisation import as_int8, quantised, with_learnt_points

__all__ = [
    "MLP",
    "AuxiliaryLogits",
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarResNet50",
    "CifarShuffleNetV1",
    "CifarShuffleNetV2",
    "CifarVGG",
    "CondensationConvNet",
    "ConvNet",
    "EarlyExit",
    "Ensemble",
    "InputAdapter",
    "MostConfident",
    "MultiExit",
    "ReusedClassifier",
    "RoutedEnsemble",
    "StagedNetwork",
    "WideResNet",
    "as_int8",
    "default_layers",
    "detector",
    "interpolated",
    "macs",
    "mobilenet_v2_half",
    "paired",
    "quantised",
    "read_weights",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "restored",
    "seeded",
    "segmenter",
    "shufflenet_v1",
    "shufflenet_v2",
    "trained",
    "vgg8",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "with_learnt_points",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
]
