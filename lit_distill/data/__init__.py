"""LightningDataModules for image classification."""

from lit_distill.data.base import ImageData
from lit_distill.data.cifar import CIFAR10, CIFAR100
from lit_distill.data.class_batches import ClassBatches
from lit_distill.data.coco import CocoBoxes, CocoMasks
from lit_distill.data.digits import Digits
from lit_distill.data.image_folder import ImageFolder
from lit_distill.data.loader import ResumableLoader
from lit_distill.data.mix import CutMix, Mix, Mixup, MixupOrCutMix
from lit_distill.data.mnist import MNIST, FashionMNIST
from lit_distill.data.noise import NoiseImages
from lit_distill.data.partial_mix import PartialMix
from lit_distill.data.sampler import GlobalBatchSampler, SequentialBatchSampler
from lit_distill.data.self_mix import SelfMix
from lit_distill.data.shapes import ShapeBoxes, ShapeMasks
from lit_distill.data.subset import RandomSubset, ScoredSubset, Subset
from lit_distill.data.tensor_data import TensorData
from lit_distill.data.tiny_imagenet import TinyImageNet
from lit_distill.data.with_mixtures import WithMixtures

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "ClassBatches",
    "CocoBoxes",
    "CocoMasks",
    "CutMix",
    "Digits",
    "FashionMNIST",
    "GlobalBatchSampler",
    "ImageData",
    "ImageFolder",
    "Mix",
    "Mixup",
    "MixupOrCutMix",
    "NoiseImages",
    "PartialMix",
    "RandomSubset",
    "ResumableLoader",
    "ScoredSubset",
    "SelfMix",
    "SequentialBatchSampler",
    "ShapeBoxes",
    "ShapeMasks",
    "Subset",
    "TensorData",
    "TinyImageNet",
    "WithMixtures",
]
