"""The cost of a network: trainable parameters, multiply-adds and activations, counted from the functional model.

Also the receptive fields of its maps, along the longest path (Araujo, Norris, Sim 2019, "Computing Receptive Fields of
Convolutional Neural Networks", Distill, equation 2).
"""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import keras

from keras_cnns.layer_names import level_of

# Layers whose output depends on the whole map.
POOLS_ALL = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.AdaptiveAveragePooling2D,
    keras.layers.AdaptiveMaxPooling2D,
)


class Field(NamedTuple):
    """The part of the image that an element of a map depends on, in pixels; each is (height, width)."""

    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)  # between the fields of two neighbors


class LayerComplexity(NamedTuple):
    """The cost of one layer for one image."""

    name: str
    output_shape: tuple[int, ...]  # without the batch; of the first output if a layer has several
    parameters: int  # trainable
    multiply_adds: int  # of convolutions and dense layers, without biases
    activations: int  # elements of the output
    receptive_field: tuple[int, int] | None  # height and width, in pixels; None where all pixels have been pooled


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

    @property
    def receptive_field(self) -> tuple[int, int] | None:
        """Height and width in pixels of what an element of the last map depends on; None if there is no map."""
        return max((layer.receptive_field for layer in self.layers if layer.receptive_field), default=None)

    def __str__(self):
        stages = {}
        for layer in self.layers:
            stages.setdefault(level_of(layer.name), []).append(layer)
        rows = [
            (name, " x ".join(map(str, group[-1].output_shape)), Complexity(tuple(group)))
            for name, group in stages.items()
        ]
        rows.append(("all", "", self))
        line = "{:<14}{:>18}{:>16}{:>20}{:>16}{:>18}".format
        return "\n".join(
            [line("stage", "output", "parameters", "multiply-adds", "activations", "receptive field")]
            + [
                line(
                    name,
                    shape,
                    f"{c.parameters:,}",
                    f"{c.multiply_adds:,}",
                    f"{c.activations:,}",
                    " x ".join(map(str, c.receptive_field or ())),
                )
                for name, shape, c in rows
            ]
        )


def complexity(model, input_shape=None):
    """Count trainable parameters, multiply-adds and activations for one image, per layer and in total, and the pixels
    of receptive fields.

    A layer or nested model that is applied several times counts multiply-adds and activations each time, but
    parameters only the first time.

    Multiply-adds are those of layers with a `kernel`, each element of which is used once at every position of the
    output: convolutions, grouped and depthwise ones included, and dense layers. The kernels of a deformable
    convolution's offsets and masks count too, but the offsets and masks themselves are not among the activations, and
    the interpolation is not among the multiply-adds.

    The receptive field is that of the longest path of kernels and strides, with all offsets of deformable convolutions
    at zero. It ignores what has passed through a global pool, such as the gates of squeeze and excitation.

    Args:
        model: A functional Keras model.
        input_shape: (height, width, channels) of the image; required if the height or width of the model is None.

    Returns:
        A `Complexity` with `parameters`, `multiply_adds`, `activations`, `receptive_field` and `layers`.

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
    return Complexity(tuple(_layer_complexity(*application, counted) for application in _applications(model)[0]))


def _applications(model, fields=None):
    """List the applications of layers in a model, those of nested models in their place.

    Args:
        model: A functional model.
        fields: The `Field` of each input; None for those of an image.

    Returns:
        A list of (layer, Keras node, Field of the output or None), and the Field or None of each output of the model.
    """
    if not hasattr(model, "inputs"):
        raise ValueError(
            f"{model.name} has no graph of layers to count: it is subclassed, or Sequential without an input. "
            "Pass a functional model."
        )
    model = keras.Model(model.inputs, model.outputs, name=model.name)  # a Sequential model has no nodes of its own
    known = dict(zip(map(id, model.inputs), fields or [Field()] * len(model.inputs), strict=True))
    found = {}
    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):  # from the inputs to the outputs
        for node in nodes:
            layer, inputs = node.operation, [known.get(id(tensor)) for tensor in node.input_tensors]
            if isinstance(layer, keras.Model):
                inner, outputs = _applications(layer, inputs)
            else:
                field = _field(layer, node, inputs) if inputs else known[id(node.outputs[0])]
                inner, outputs = [(layer, node, field)], [field] * len(node.outputs)
            known.update(zip(map(id, node.outputs), outputs, strict=True))
            found.setdefault(id(layer), []).append(inner)
    applications = itertools.chain.from_iterable(itertools.chain(*found[id(layer)]) for layer in model.layers)
    return list(applications), [known[id(tensor)] for tensor in model.outputs]


def _field(layer, node, inputs):
    """Return the Field of an output of a layer whose inputs have these fields, or None if it has seen all pixels."""
    maps = [field for field in inputs if field]
    if not maps or len(node.outputs[0].shape) != 4 or isinstance(layer, POOLS_ALL):
        return None
    size, stride = (tuple(map(max, zip(*extents, strict=True))) for extents in zip(*maps, strict=True))
    if isinstance(layer, keras.layers.UpSampling2D):
        return Field(size, tuple(map(_divided, stride, layer.size)))
    if isinstance(layer, keras.layers.Conv2DTranspose):
        # An element of the output meets every stride-th element of the kernel.
        met = [-(-kernel // by) for kernel, by in zip(layer.kernel_size, layer.strides, strict=True)]
        size = tuple(s + (m - 1) * j for s, m, j in zip(size, met, stride, strict=True))
        return Field(size, tuple(map(_divided, stride, layer.strides)))
    kernel = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None) or (1, 1)
    dilation, strides = getattr(layer, "dilation_rate", (1, 1)), getattr(layer, "strides", (1, 1))
    size = tuple(s + d * (k - 1) * j for s, d, k, j in zip(size, dilation, kernel, stride, strict=True))
    return Field(size, tuple(j * by for j, by in zip(stride, strides, strict=True)))


def _divided(stride, by):
    """Return a stride divided by a factor, as a whole number if it is one."""
    return stride // by if stride % by == 0 else stride / by


def _layer_complexity(layer, node, field, counted):
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
        receptive_field=field and field.size,
    )
