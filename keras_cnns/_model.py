"""What every builder shares: its arguments, its input, its classifier head and its last step.

A builder can read like its paper because the rest is said once, here: the seven arguments that keras.applications made
familiar, the checks on them, and the words that describe them.
"""

import difflib
import functools
import inspect
import numbers
import re
from collections.abc import Iterable
from typing import TypedDict

import keras

from keras_cnns import checkpoints


class SharedArguments(TypedDict, total=False):
    """The arguments that every builder takes, spelled as in keras.applications."""

    include_top: bool
    weights: str | None
    input_tensor: keras.KerasTensor | None
    input_shape: tuple[int | None, int | None, int] | None
    pooling: str | None
    classes: int
    classifier_activation: str | None


# What a classifier of one class takes instead of an activation, a function or a layer, that is constant over one.
OF_ONE_CLASS = {
    keras.activations.softmax: keras.activations.sigmoid,
    keras.layers.Softmax: keras.activations.sigmoid,
    keras.activations.log_softmax: keras.activations.log_sigmoid,
}
DEFAULTS = SharedArguments(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
)

SHARED_ARGUMENTS_DOC = """\
    include_top: Whether to end with the classifier. Without it the output is the last feature map, or what `pooling`
        makes of it.
    weights: None for a random start, or the path of a safetensors file written by `keras_cnns.save_weights`. Never
        changes the graph. Weights trained elsewhere may want other pixels than this package's: the file says which,
        and `keras_cnns.preprocess_input(pixels, model)` follows it, while `preprocess_input(pixels)` does not.
    input_tensor: A Keras tensor (batch, height, width, channels) to build on, instead of `input_shape`.
    input_shape: (height, width, channels) without the batch; height and width may be None where the network can take
        any size. By default the paper's size in RGB, or any size in RGB when `include_top` is False.
    pooling: What follows the last feature map when `include_top` is False: None for the map itself
        (batch, height, width, channels), "avg" or "max" for a vector (batch, channels).
    classes: Number of classes. With 1 a softmax becomes a sigmoid, since a softmax over one class is constant.
    classifier_activation: Activation of the classifier; None gives logits.

Returns:
    A `keras.Model` that takes images normalised by `keras_cnns.preprocess_input(pixels, model)`, (batch, height,
    width, channels).
    With `include_top` it gives (batch, classes), in float32 under every precision policy but float64.

Raises:
    ValueError: A size, shape, class count, pooling or weight file that the network cannot take.
    TypeError: An argument that does not exist.
"""


class FixedSizeError(ValueError):
    """A network whose height and width must be given was asked to take images of any size.

    Networks that flatten their last map are of this kind when they end with their classifier.

    Example:
        >>> try:
        ...     keras_cnns.VGG16(input_shape=(None, None, 3))
        ... except keras_cnns.FixedSizeError:
        ...     print("needs its size")
        needs its size
    """


def builder(function=None, *, family=None, **defaults):
    """Decorates a builder `f(*, ..., name, **shared)` with the shared arguments: signature, checks and docstring.

    Args:
        function: The builder.
        family: The family's builder, whose docstring describes the arguments of a variant with a one-line docstring.
        defaults: Defaults of shared arguments that differ from keras.applications', as `classes=10` for CIFAR.
    """
    if function is None:
        return functools.partial(builder, family=family, **defaults)
    defaults = DEFAULTS | defaults
    own = inspect.signature(function)
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    positional = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    for key, default in defaults.items():
        annotation = SharedArguments.__annotations__[key]
        parameters.append(
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    signature = own.replace(parameters=parameters, return_annotation=keras.Model)

    @functools.wraps(function)
    def build(*args, **arguments):
        for argument in arguments:
            if argument not in signature.parameters:
                raise TypeError(
                    f"{function.__name__} got the argument {argument!r}, which it does not have."
                    f"{did_you_mean(argument, signature.parameters)}"
                )
        if len(args) > len(positional):
            raise TypeError(
                f"{function.__name__} got {args!r} by position. Pass arguments by name, such as "
                f"{function.__name__}(include_top=True, weights=None)."
            )
        return function(*args, **(defaults | arguments))

    build.__signature__ = signature
    build.__doc__ = _docstring(function, family, own.parameters)
    return build


def _docstring(function, family, own_parameters):
    """The docstring of a builder: its own text, its own arguments, the shared ones and, for a variant, an example."""
    described = _described_arguments(function) | (_described_arguments(family) if family else {})
    text = inspect.getdoc(function).partition("\nArgs:")[0].rstrip() + "\n\nArgs:\n"
    text += "".join(described[name] for name in own_parameters if name != "shared") + SHARED_ARGUMENTS_DOC
    if family:
        text += f"\nExample:\n    >>> keras_cnns.{function.__name__}(classes=10).output_shape\n    (None, 10)\n"
    return text


def _described_arguments(function):
    """Reads the Args section of a docstring: {argument: its lines}."""
    section = inspect.getdoc(inspect.unwrap(function)).partition("\nArgs:\n")[2].partition("\n\n")[0] + "\n"
    entries = re.split(r"^(?=    \w+:)", section, flags=re.MULTILINE)
    return {entry.partition(":")[0].strip(): entry for entry in entries if entry.strip()}


def did_you_mean(word, known):
    """Ends an error about a wrong name with the names that come near it, or with all of them."""
    near = difflib.get_close_matches(word.lower(), {name.lower(): name for name in known}, n=3)
    names = [name for name in known if name.lower() in near] or list(known)
    return f" Did you mean {', '.join(names)}?" if near else f" It has {', '.join(names)}."


def image_input(network, shared, *, default_size, minimum, minimum_because, fixed_size_because=None, or_use=""):
    """Make the input tensor of a network; check first that the network can take it, and the other shared arguments.

    Args:
        network: Name of the network, for errors.
        shared: The shared arguments.
        default_size: Height and width in pixels when nothing is said.
        minimum: Smallest height and width in pixels.
        minimum_because: Why smaller ones do not work, continuing "because ...".
        or_use: For images that are too small, what else to do, as ", or use ResNetCIFAR".
        fixed_size_because: Why height and width cannot be None, continuing "because ..."; None where they can.

    Returns:
        A Keras tensor (batch, height, width, channels).
    """
    classes, pooling = shared["classes"], shared["pooling"]
    if not is_whole(classes) or classes < 1:
        raise ValueError(f"classes={classes!r}; it must be a whole number of at least 1.")
    if pooling not in (None, "avg", "max"):
        raise ValueError(f'pooling={pooling!r}; it must be None, "avg" or "max".')
    shape, tensor = shared["input_shape"], shared["input_tensor"]
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"{network} needs channels-last images, but keras.config.image_data_format() is "
            f"{keras.config.image_data_format()!r}. Call keras.config.set_image_data_format('channels_last')."
        )
    if tensor is not None:
        if not keras.backend.is_keras_tensor(tensor) or len(tensor.shape) != 4:
            raise ValueError(
                f"{network} got an input_tensor of type {type(tensor).__name__} and shape "
                f"{getattr(tensor, 'shape', None)}; it must be a Keras tensor (batch, height, width, channels). "
                "Make one with keras.Input((224, 224, 3))."
            )
        if shape is not None and tuple(shape) != tuple(tensor.shape[1:]):
            raise ValueError(
                f"{network} got input_shape={tuple(shape)} and an input_tensor of shape {tuple(tensor.shape[1:])}. "
                "Pass one of them."
            )
        shape, argument = tuple(tensor.shape[1:]), "input_tensor of shape "
    elif shape is None:
        size = default_size if shared["include_top"] else None
        shape, argument = (size, size, 3), "input_shape="
    else:
        argument = "input_shape="
        if isinstance(shape, Iterable):
            shape = tuple(int(size) if is_whole(size) else size for size in shape)  # NumPy's integers too
    got = f"{network} got {argument}{shape}"
    is_shape = isinstance(shape, tuple) and len(shape) == 3 and is_whole(shape[2]) and shape[2] >= 1
    if not is_shape or not all(size is None or is_whole(size) for size in shape[:2]):
        raise ValueError(f"{got}; it must be (height, width, channels) with the number of channels, as (224, 224, 3).")
    if None in shape[:2] and fixed_size_because and shared["include_top"]:
        raise FixedSizeError(
            f"{got}; with include_top=True height and width cannot be None because {fixed_size_because}. "
            f"Pass them, as ({default_size}, {default_size}, {shape[2]}), or pass include_top=False."
        )
    if any(size is not None and size < minimum for size in shape[:2]):
        raise ValueError(
            f"{got}; height and width must be at least {minimum} because {minimum_because}. "
            f"Pass a larger {argument.split('=')[0].split()[0]}, (height, width, channels){or_use}."
        )
    return keras.Input(shape, name="image") if tensor is None else tensor


def head_dtype():
    """The precision of every head: float32 under every precision policy, but float64 under that of float64."""
    return "float64" if keras.config.dtype_policy().variable_dtype == "float64" else "float32"


def is_whole(value):
    """Whether a value is a whole number, Python's or NumPy's."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def global_pool(x, pooling, *, name):
    """Turns a map (batch, height, width, channels) into a vector (batch, channels) in `head_dtype`: "avg" or "max"."""
    layer = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}[pooling]
    return layer(dtype=head_dtype(), name=name)(x)


def dense_classifier(x, shared, *, name):
    """The last dense layer (batch, features) -> (batch, classes), in the precision of `head_dtype`."""
    classes, activation = shared["classes"], shared["classifier_activation"]
    if classes == 1:
        function = keras.activations.get(activation)
        activation = OF_ONE_CLASS.get(function) or OF_ONE_CLASS.get(type(function), activation)
    return keras.layers.Dense(int(classes), activation=activation, dtype=head_dtype(), name=name)(x)


def classifier_head(x, shared, *, dropout=0.0, fully_connected=()):
    """Ends a network after its last feature map: global average, dropout, classifier, or what `include_top=False` asks.

    Args:
        x: The last feature map (batch, height, width, channels).
        shared: The shared arguments.
        dropout: Fraction of the pooled features, or of each dense layer's output, dropped in training.
        fully_connected: Widths of dense layers on the flattened map, which the first networks had instead of the
            global average.
    """
    include_top, pooling = shared["include_top"], shared["pooling"]
    if not include_top:
        return x if pooling is None else global_pool(x, pooling, name="head_pool")
    if fully_connected:
        x = keras.layers.Flatten(name="head_flatten")(x)
        for index, units in enumerate(fully_connected, 1):
            x = keras.layers.Dense(units, "relu", kernel_initializer="he_normal", name=f"head_fc{index}")(x)
            x = keras.layers.Dropout(dropout, name=f"head_dropout{index}")(x)
        return dense_classifier(x, shared, name="head_dense")
    x = global_pool(x, "avg", name="head_pool")
    if dropout:
        x = keras.layers.Dropout(dropout, dtype=head_dtype(), name="head_dropout")(x)
    return dense_classifier(x, shared, name="head_dense")


def finish(image, outputs, shared, *, name):
    """Makes the model from its input and outputs and loads the weights if a file is given."""
    inputs = keras.utils.get_source_inputs(image)
    model = keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=name)
    if shared["weights"] is not None:
        checkpoints.load_weights(model, shared["weights"])
    return model


def main_output(model):
    """The network that is used after training: the main output alone.

    Args:
        model: A network with one output, returned as it is, or one with auxiliary heads, as
            `GoogLeNet(aux_heads=True)`.

    Returns:
        A model (batch, height, width, channels) -> (batch, classes) that shares the weights of `model`.

    Example:
        >>> model = keras_cnns.GoogLeNet(aux_heads=True, classes=10)
        >>> keras_cnns.main_output(model).output_shape
        (None, 10)
    """
    if not isinstance(model.output, dict):
        return model
    main = keras.Model(model.input, model.output["main"], name=model.name)
    main.preprocessing = getattr(model, "preprocessing", "imagenet")
    return main


def labels_for(model, labels):
    """The labels in the form that plain `model.fit` wants them: one copy for each head.

    Keras compares labels and outputs by structure, so that a network with auxiliary heads needs the same labels under
    each head's name. A network with one output takes them as they are.

    Args:
        model: A network, with or without auxiliary heads.
        labels: Labels, (batch,) or (batch, classes); an array or a tensor.

    Example:
        >>> model = keras_cnns.GoogLeNet(aux_heads=True, classes=10)
        >>> sorted(keras_cnns.labels_for(model, [3, 7]))
        ['aux1', 'aux2', 'main']
    """
    return dict.fromkeys(model.output, labels) if isinstance(model.output, dict) else labels
