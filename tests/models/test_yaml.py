"""Networks as they are written in YAML."""

from pathlib import Path

import pytest
import timm
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from lit_distill import models


def from_yaml(text):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=nn.Module)
    return parser.instantiate(parser.parse_object({"net": yaml.safe_load(text)})).net


FUNCTIONS = [name for name in models.__all__ if name.startswith(("resnet", "wrn", "vgg", "mobile", "shuffle"))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_zoo(name):
    network = from_yaml(f"{{class_path: lit_distill.models.{name}, init_args: {{num_classes: 7, in_channels: 1}}}}")
    assert isinstance(network, models.StagedNetwork)
    assert network.get_submodule(network.classifier_path).out_features == 7


def test_classes():
    network = from_yaml("{class_path: lit_distill.models.MLP, init_args: {input_shape: [1, 8, 8], hidden: [5, 6]}}")
    assert [block.linear.out_features for block in network.blocks] == [5, 6]
    network = from_yaml("{class_path: lit_distill.models.ConvNet, init_args: {norm: group, width: 4}}")
    assert isinstance(network.blocks[0].norm, nn.GroupNorm)


def test_restored_teacher_behind_an_adapter_in_an_ensemble(tmp_path):
    source = models.MLP((3, 8, 8), 10, (4,))
    torch.save(source.state_dict(), tmp_path / "teacher.pt")
    network = from_yaml(f"""
        class_path: lit_distill.models.Ensemble
        init_args:
          weights: {{plain: 2}}
          members:
            adapted:
              class_path: lit_distill.models.InputAdapter
              init_args:
                size: 8
                channels: 3
                mean: [0.5, 0.4, 0.3]
                std: [0.2, 0.2, 0.2]
                model:
                  class_path: lit_distill.models.restored
                  init_args:
                    path: {tmp_path}/teacher.pt
                    model:
                      class_path: lit_distill.models.MLP
                      init_args: {{input_shape: [3, 8, 8], hidden: [4]}}
            plain:
              class_path: lit_distill.models.resnet8
              init_args: {{num_classes: 10, in_channels: 1}}
    """)
    assert torch.equal(network.get_submodule("members.adapted.model").fc.weight, source.fc.weight)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_timm():
    network = from_yaml("""
        class_path: timm.create_model
        init_args: {model_name: test_resnet}
        dict_kwargs: {num_classes: 7}
    """)
    assert isinstance(network, timm.models.ResNet)
    assert network.num_classes == 7


@pytest.mark.parametrize("name", models.__all__)
def test_no_file_hides_a_public_name(name):
    # Importing a submodule of the same name would put the module in the name's place.
    assert not (Path(models.__file__).parent / f"{name}.py").exists()
