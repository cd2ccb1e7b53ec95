"""Write the table of networks in the README from the code: python -m docs.networks_table.

Parameters and multiply-adds are counted on the networks as they are built. The paper is the first citation in the
network's file, or the entry of `SOURCES` for a network that this paper does not describe.
"""

import functools
import pathlib
import re
import sys

import keras

import keras_cnns

# A file of tests/golden: the network that tests/test_golden.py compares with it, and the package that it is from.
PROOFS = {
    "resnet18": (keras_cnns.ResNet18, "torchvision"),
    "resnet50": (keras_cnns.ResNet50, "torchvision"),
    "resnet101": (keras_cnns.ResNet101, "torchvision"),
    "resnet50_version1": (functools.partial(keras_cnns.ResNet50, version="1"), "keras.applications"),
    "deformableresnet50": (keras_cnns.DeformableResNet50, "torchvision"),
    "deformableresnet50_unmodulated": (
        functools.partial(keras_cnns.DeformableResNet50, modulated=False),
        "torchvision",
    ),
    "inceptionv1": (functools.partial(keras_cnns.InceptionV1, aux_heads=True), "torchvision"),
    "seresnet18": (keras_cnns.SEResNet18, "timm"),
    "seresnet50": (keras_cnns.SEResNet50, "timm"),
    "seresnet50_version1": (functools.partial(keras_cnns.SEResNet50, version="1"), "timm"),
    "seresnext50": (keras_cnns.SEResNeXt50, "timm"),
    "senet154": (keras_cnns.SENet154, "timm"),
    "alexnetonetower": (keras_cnns.AlexNetOneTower, "torchvision"),
    "vgg11": (keras_cnns.VGG11, "torchvision"),
    "vgg11_batchnorm": (functools.partial(keras_cnns.VGG11, batch_norm=True), "torchvision"),
    "vgg16": (keras_cnns.VGG16, "torchvision"),
    "vgg16_batchnorm": (functools.partial(keras_cnns.VGG16, batch_norm=True), "torchvision"),
    "vgg16_keras": (keras_cnns.VGG16, "keras.applications"),
    "densenet121": (keras_cnns.DenseNet121, "torchvision"),
    "densenet161": (keras_cnns.DenseNet161, "torchvision"),
    "densenet121_keras": (keras_cnns.DenseNet121, "keras.applications"),
    "efficientnetb0": (keras_cnns.EfficientNetB0, "timm"),
    "efficientnetb4": (keras_cnns.EfficientNetB4, "timm"),
    "efficientnetlite0": (keras_cnns.EfficientNetLite0, "timm"),
    "efficientnetb0_keras": (keras_cnns.EfficientNetB0, "keras.applications"),
    "efficientnetb4_keras": (keras_cnns.EfficientNetB4, "keras.applications"),
}
# Sources of networks that the paper of their file does not contain, or not as they are built by default.
SOURCES = {
    "AlexNetOneTower": "Krizhevsky 2014",
    "InceptionV1": "Szegedy et al. 2015; Ioffe, Szegedy 2015 (TF-Slim)",
    "DenseNet161": "Huang, Liu, van der Maaten, Weinberger 2017 (authors' code)",
    "SEResNet18": "Hu, Shen, Sun 2018 (network of timm)",
    "SEResNet34": "Hu, Shen, Sun 2018 (network of timm)",
    "SEInceptionV1": "Hu, Shen, Sun 2018 (on InceptionV1)",
    "DeformableResNet50": "Zhu, Hu, Lin, Dai 2019",
    "DeformableResNet101": "Zhu, Hu, Lin, Dai 2019",
}
SOURCES |= dict.fromkeys(keras_cnns.list_models("EfficientNetLite"), "Liu 2020 (TensorFlow blog)")
README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- networks -->\n", "<!-- end of networks -->\n"
HEADER = (
    "| network | paper | pixels | parameters | multiply-adds | proven against | published weights |\n"
    "| --- | --- | --- | --- | --- | --- | --- |\n"
)


def proofs(name):
    """Return the packages whose network gives the same outputs, in the order of `PROOFS`, or "counted"."""
    packages = [peer for network, peer in PROOFS.values() if getattr(network, "func", network).__name__ == name]
    return ", ".join(dict.fromkeys(packages)) or "counted"


def citation(name):
    """Return the authors and the year of a network's source."""
    if name in SOURCES:
        return SOURCES[name]
    module = sys.modules[keras_cnns.builder(name).__module__]
    return re.match(r"\w[\w ]*: (.*?)[,:] \"", module.__doc__)[1] + " " + re.search(r"\b(20\d\d)\b", module.__doc__)[1]


def weights(name):
    """Return the repositories of the published weights of a network, with and without batch normalization, or "no"."""
    return ", ".join(entry.repository for entry in keras_cnns.list_weights(name)) or "no"


def row(name, pixels, parameters, multiply_adds):
    """Return a line of the table; multiply-adds are in units of 1e9."""
    return (
        f"| {name} | {citation(name)} | {pixels} | {parameters:,} | {multiply_adds:.3f} G | {proofs(name)} | "
        f"{weights(name)} |\n"
    )


def rows():
    """Build and count every network and yield its line."""
    for name in keras_cnns.list_models():
        keras.backend.clear_session()
        model = keras_cnns.builder(name)()
        cost = keras_cnns.complexity(model)
        yield row(name, model.input_shape[1], cost.parameters, cost.multiply_adds / 1e9)


def in_readme():
    """Return the lines of the table in the README."""
    return README.read_text().partition(BEGIN + HEADER)[2].partition(END)[0].splitlines(keepends=True)


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + HEADER + "".join(rows()) + END + rest.partition(END)[2])
