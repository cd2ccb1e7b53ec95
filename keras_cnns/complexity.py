"""The cost of a network: trainable parameters, multiply-adds and activations, counted from the functional model."""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import keras

from keras_cnns.layer_names import level_of


class LayerComplexity(NamedTuple):
    """The cost of one layer for one image."""

    name: str
    output_shape: tuple[int, ...]  # without the batch; of the first output if a layer has several
    parameters: int  # trainable
    multiply_adds: int  # of convolutions and dense layers, without biases
    activations: int  # elements of the output


@dataclass(frozen=True)
class Complexity:
    """The cost of a network for one image; printing it gives a table by stage."""

    layers: tuple[LayerComplexity, ...]

    @property
    def parameters(self) -> int:
        """Trainable parameters, without moving statistics."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of convolutions and dense layers, as papers, torchvision and timm count them."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activations(self) -> int:
        """Elements of the outputs of convolutions and dense layers, as timm and fvcore count them."""
        return sum(layer.activations for layer in self.layers if layer.multiply_adds)

    def __str__(self):
        stages = {}
        for layer in self.layers:
            stages.setdefault(level_of(layer.name), []).append(layer)
        rows = [
            (name, " x ".join(map(str, group[-1].output_shape)), Complexity(tuple(group)))
            for name, group in stages.items()
        ]
        rows.append(("all", "", self))
        line = "{:<14}{:>18}{:>16}{:>20}{:>16}".format
        return "\n".join(
            [line("stage", "output", "parameters", "multiply-adds", "activations")]
            + [
                line(name, shape, f"{c.parameters:,}", f"{c.multiply_adds:,}", f"{c.activations:,}")
                for name, shape, c in rows
            ]
        )


def complexity(model, input_shape=None):
    """Count trainable parameters, multiply-adds and activations for one image, per layer and in total.

    A layer or nested model that is applied several times counts multiply-adds and activations each time, but
    parameters only the first time.

    Multiply-adds are those of layers with a `kernel`, each element of which is used once at every position of the
    output: convolutions, grouped and depthwise ones included, and dense layers. The kernels of a deformable
    convolution's offsets and masks count too, but the offsets and masks themselves are not among the activations, and
    the interpolation is not among the multiply-adds.

    Args:
        model: A functional Keras model.
        input_shape: (height, width, channels) of the image; required if the height or width of the model is None.

    Returns:
        A `Complexity` with `parameters`, `multiply_adds`, `activations` and `layers`.

    Raises:
        ValueError: Height or width is None and `input_shape` is missing, or the model is not functional.

    Example:
        >>> cost = keras_cnns.complexity(keras_cnns.ResNet50())
        >>> cost.parameters, cost.multiply_adds
        (25557032, 4089184256)
    """
    if input_shape is not None:
        model = keras.models.clone_model(model, input_tensors=keras.Input(input_shape))
    counted = set()
    return Complexity(tuple(_layer_complexity(layer, node, counted) for layer, node in _applications(model)))


def _applications(model):
    """Yield (layer, Keras node) for each application of a layer in a model, those of nested models in their place."""
    if not hasattr(model, "inputs"):
        raise ValueError(
            f"{model.name} has no graph of layers to count: it is subclassed, or Sequential without an input. "
            "Pass a functional model."
        )
    model = keras.Model(model.inputs, model.outputs, name=model.name)  # a Sequential model has no nodes of its own
    nodes = {}
    for node in itertools.chain.from_iterable(model._nodes_by_depth.values()):
        nodes.setdefault(id(node.operation), []).append(node)
    for layer in model.layers:
        for node in nodes[id(layer)]:
            yield from _applications(layer) if isinstance(layer, keras.Model) else [(layer, node)]


def _layer_complexity(layer, node, counted):
    """Return the cost of one application of a layer, without the parameters that are already `counted`."""
    shape = node.outputs[0].shape[1:]
    if None in shape:
        raise ValueError(
            f"The output of {layer.name} is {shape}: height or width is None. Pass input_shape, such as (224, 224, 3); "
            "a model inside the model must be built with a fixed size."
        )
    kernels = [variable for variable in layer.weights if variable.name.endswith("kernel")]
    # A dense layer's output (batch, units) is one position. A transposed convolution applies its kernel to its input.
    transposed = isinstance(layer, keras.layers.Conv2DTranspose)
    positions = math.prod(node.input_tensors[0].shape[1:-1] if transposed else shape[:-1])
    new = [variable for variable in layer.trainable_variables if id(variable) not in counted]
    counted.update(map(id, new))
    return LayerComplexity(
        name=layer.name,
        output_shape=tuple(shape),
        parameters=sum(math.prod(variable.shape) for variable in new),
        multiply_adds=positions * sum(math.prod(kernel.shape) for kernel in kernels),
        activations=math.prod(shape),
    )
