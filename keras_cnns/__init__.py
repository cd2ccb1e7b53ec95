"""The classic convolutional networks in Keras, each as its paper has it."""

from keras_cnns import layers
from keras_cnns._model import labels_for, main_output
from keras_cnns.catalogue import builder, list_models
from keras_cnns.checkpoints import load_weights, save_weights
from keras_cnns.complexity import complexity
from keras_cnns.googlenet import GoogLeNet, InceptionV1
from keras_cnns.preprocessing import preprocess_input
from keras_cnns.resnet import ResNet18, ResNet34, ResNet50, ResNet101, ResNet152

__all__ = [
    "GoogLeNet",
    "InceptionV1",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
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
