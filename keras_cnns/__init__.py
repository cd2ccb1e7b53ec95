"""The classic convolutional networks in Keras, each as in its paper.

Some networks use layers of this package. `keras.models.load_model` reads their .keras files only after
`import keras_cnns`, which registers these layers.
"""

from keras_cnns import layers
from keras_cnns._model import FixedSizeError, labels_for, main_output
from keras_cnns.alexnet import AlexNet, AlexNetOneTower
from keras_cnns.catalogue import builder, find_weights, list_models, list_weights
from keras_cnns.checkpoints import load_weights, read_weights, save_weights
from keras_cnns.coefficients import read_coefficients
from keras_cnns.complexity import complexity
from keras_cnns.conversion import convert_weights
from keras_cnns.decoding import decode_predictions, imagenet_classes
from keras_cnns.deformable import DeformableResNet50, DeformableResNet101
from keras_cnns.densenet import DenseNet121, DenseNet161, DenseNet169, DenseNet201, DenseNet264, DenseNetCIFAR
from keras_cnns.efficientnet import (
    EfficientNet,
    EfficientNetB0,
    EfficientNetB1,
    EfficientNetB2,
    EfficientNetB3,
    EfficientNetB4,
    EfficientNetB5,
    EfficientNetB6,
    EfficientNetB7,
    compound_coefficients,
)
from keras_cnns.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
)
from keras_cnns.features import features
from keras_cnns.folding import fold_batch_norm
from keras_cnns.googlenet import GoogLeNet, InceptionV1
from keras_cnns.layer_names import is_auxiliary, is_head, level_of, split_levels
from keras_cnns.preprocessing import ImageSize, preprocess_input, preprocessing_modes, resize_and_crop
from keras_cnns.published import pin_weights
from keras_cnns.resnet import PlainNet18, PlainNet34, ResNet18, ResNet34, ResNet50, ResNet101, ResNet152
from keras_cnns.resnet_cifar import (
    PlainNet20,
    PlainNet56,
    PlainNetCIFAR,
    ResNet20,
    ResNet32,
    ResNet44,
    ResNet56,
    ResNet110,
    ResNetCIFAR,
)
from keras_cnns.senet import (
    SEInceptionV1,
    SENet154,
    SEResNet18,
    SEResNet34,
    SEResNet50,
    SEResNet101,
    SEResNet152,
    SEResNeXt50,
    SEResNeXt101,
    squeeze_and_excitation,
)
from keras_cnns.vgg import VGG11, VGG13, VGG16, VGG19

__all__ = [
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
    "AlexNet",
    "AlexNetOneTower",
    "DeformableResNet50",
    "DeformableResNet101",
    "DenseNet121",
    "DenseNet161",
    "DenseNet169",
    "DenseNet201",
    "DenseNet264",
    "DenseNetCIFAR",
    "EfficientNet",
    "EfficientNetB0",
    "EfficientNetB1",
    "EfficientNetB2",
    "EfficientNetB3",
    "EfficientNetB4",
    "EfficientNetB5",
    "EfficientNetB6",
    "EfficientNetB7",
    "EfficientNetLite0",
    "EfficientNetLite1",
    "EfficientNetLite2",
    "EfficientNetLite3",
    "EfficientNetLite4",
    "FixedSizeError",
    "GoogLeNet",
    "ImageSize",
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
    "SEInceptionV1",
    "SENet154",
    "SEResNeXt50",
    "SEResNeXt101",
    "SEResNet18",
    "SEResNet34",
    "SEResNet50",
    "SEResNet101",
    "SEResNet152",
    "builder",
    "complexity",
    "compound_coefficients",
    "convert_weights",
    "decode_predictions",
    "features",
    "find_weights",
    "fold_batch_norm",
    "imagenet_classes",
    "is_auxiliary",
    "is_head",
    "labels_for",
    "layers",
    "level_of",
    "list_models",
    "list_weights",
    "load_weights",
    "main_output",
    "pin_weights",
    "preprocess_input",
    "preprocessing_modes",
    "read_coefficients",
    "read_weights",
    "resize_and_crop",
    "save_weights",
    "split_levels",
    "squeeze_and_excitation",
]
