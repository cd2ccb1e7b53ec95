"""The classic convolutional networks in Keras, each as its paper has it."""

from keras_cnns import layers
from keras_cnns._model import labels_for, main_output
from keras_cnns.catalogue import builder, list_models
from keras_cnns.checkpoints import load_weights, save_weights
from keras_cnns.complexity import complexity
from keras_cnns.deformable import DeformableResNet50, DeformableResNet101
from keras_cnns.googlenet import GoogLeNet, InceptionV1
from keras_cnns.preprocessing import preprocess_input
from keras_cnns.resnet import (
    PlainNet18,
    PlainNet20,
    PlainNet34,
    PlainNet56,
    PlainNetCIFAR,
    ResNet18,
    ResNet20,
    ResNet32,
    ResNet34,
    ResNet44,
    ResNet50,
    ResNet56,
    ResNet101,
    ResNet110,
    ResNet152,
    ResNetCIFAR,
)

__all__ = [
    "DeformableResNet50",
    "DeformableResNet101",
    "GoogLeNet",
    "InceptionV1",
    "PlainNet18",
    "PlainNet20",
    "PlainNet34",
    "PlainNet56",
    "PlainNetCIFAR",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "ResNet34",
    "ResNet44",
    "ResNet50",
    "ResNet56",
    "ResNet101",
    "ResNet110",
    "ResNet152",
    "ResNetCIFAR",
    "builder",
    "complexity",
    "labels_for",
    "layers",
    "list_models",
    "load_weights",
    "main_output",
    "preprocess_input",
    "save_weights",
]
