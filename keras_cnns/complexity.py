"""What a network costs: trainable parameters, multiply-adds and activations, counted from the functional model."""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import keras


class LayerComplexity(NamedTuple):
    """What one layer costs, for one image."""

    name: str
    output_shape: tuple[int, ...]  # without the batch; of the first output where a layer has several
    parameters: int  # trainable
    multiply_adds: int  # of convolutions and dense layers, biases left out
    activations: int  # elements of the output


@dataclass(frozen=True)
class Complexity:
    """What a network costs, for one image. Printing it gives a table by stage."""

    layers: tuple[LayerComplexity, ...]

    @property
    def parameters(self) -> int:
        """Trainable parameters; moving statistics are not among them."""
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
            stages.setdefault(layer.name.partition("_")[0], []).append(layer)
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
    """Count trainable parameters, multiply-adds and activations, layer by layer and in all, for one image.

    A layer or a nested model that is applied several times costs multiply-adds and activations each time; its
    parameters are counted once, the first time.

    A layer counts multiply-adds if it has a `kernel`, each of whose elements is used once at every position of the
    output: convolutions, grouped and depthwise ones included, and dense layers. A deformable convolution has further
    kernels, of the offsets and the mask, which count alike; what they make stays inside the layer and is not among the
    activations, and its interpolation is not among the multiply-adds.

    Args:
        model: A functional Keras model.
        input_shape: (height, width, channels) to count for, needed where the model leaves height or width open.

    Returns:
        A `Complexity` with `parameters`, `multiply_adds`, `activations` and `layers`.

    Raises:
        ValueError: Height or width is open and `input_shape` does not say it, or the model is not functional.

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
    """Each application of a layer in a model, (layer, Keras's node); those in a nested model in its place."""
    if not hasattr(model, "inputs"):
        raise ValueError(
            f"{model.name} has no graph of layers to count: it is subclassed, or Sequential without its input. "
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
    """What one application of a layer costs; variables that are `counted` cost no parameters again."""
    shape = node.outputs[0].shape[1:]
    if None in shape:
        raise ValueError(
            f"The output of {layer.name} is {shape}: height or width is open. Pass input_shape, as (224, 224, 3); "
            "a model inside the model has to be built with its size."
        )
    kernels = [variable for variable in layer.weights if variable.name.endswith("kernel")]
    # Of a dense layer's output (batch, units) there is one position. A transposed convolution works from its input.
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
