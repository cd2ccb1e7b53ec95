"""The ends of every network: its checked input, its classifier head and the finished model."""

import numbers
from collections.abc import Iterable

import keras

from keras_cnns import checkpoints, published
from keras_cnns.preprocessing import keep_preprocessing

# What replaces an activation, a function or a layer, that would be constant over one class.
OF_ONE_CLASS = {
    keras.activations.softmax: keras.activations.sigmoid,
    keras.layers.Softmax: keras.activations.sigmoid,
    keras.activations.log_softmax: keras.activations.log_sigmoid,
}


class FixedSizeError(ValueError):
    """Raised when a network that needs a fixed height and width is asked to take images of any size.

    Networks that flatten their last map need them when they end with their classifier.

    Example:
        >>> try:
        ...     keras_cnns.VGG16(input_shape=(None, None, 3))
        ... except keras_cnns.FixedSizeError:
        ...     print("needs its size")
        needs its size
    """


def image_input(shared, *, default_size, minimum, minimum_because, fixed_size_because=None, or_use=""):
    """Return the input tensor of a network, after checking that the network can take it, and other shared arguments.

    Args:
        shared: The shared arguments.
        default_size: Height and width in pixels if neither `input_shape` nor `input_tensor` is given.
        minimum: Smallest height and width in pixels.
        minimum_because: Why smaller ones do not work, continuing "because ...".
        fixed_size_because: Why height and width cannot be None, continuing "because ..."; None where they can.
        or_use: What else to do about images that are too small, such as ", or use ResNetCIFAR".

    Returns:
        A Keras tensor (batch, height, width, channels).

    Raises:
        FixedSizeError: Height or width is None where the network cannot take that.
        ValueError: Another shared argument is not valid.
    """
    network, classes, pooling = shared["_network"], shared["classes"], shared["pooling"]
    if not is_whole(classes) or classes < 1:
        raise ValueError(f"{network} got classes={classes!r}; it must be a whole number of at least 1.")
    if pooling not in (None, "avg", "max"):
        raise ValueError(f'{network} got pooling={pooling!r}; it must be None, "avg" or "max".')
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"{network} needs channels-last images, but keras.config.image_data_format() is "
            f"{keras.config.image_data_format()!r}. Call keras.config.set_image_data_format('channels_last')."
        )
    shape, tensor = shared["input_shape"], shared["input_tensor"]
    argument = "input_shape="
    if tensor is not None:
        check_input_tensor(network, tensor, shape)
        shape, argument = tuple(tensor.shape[1:]), "input_tensor of shape "
    elif shape is None:
        size = default_size if shared["include_top"] else None
        shape = (size, size, 3)
    elif isinstance(shape, Iterable):
        shape = tuple(int(size) if is_whole(size) else size for size in shape)  # NumPy's integers too
    got = f"{network} got {argument}{shape}"
    is_shape = isinstance(shape, tuple) and len(shape) == 3 and is_whole(shape[2]) and shape[2] >= 1
    if not is_shape or not all(size is None or is_whole(size) for size in shape[:2]):
        raise ValueError(
            f"{got}; it must be (height, width, channels) with the number of channels, such as (224, 224, 3)."
        )
    if None in shape[:2] and fixed_size_because and shared["include_top"]:
        raise FixedSizeError(
            f"{got}; with include_top=True height and width cannot be None because {fixed_size_because}. "
            f"Pass them, such as ({default_size}, {default_size}, {shape[2]}), or pass include_top=False."
        )
    if any(size is not None and size < minimum for size in shape[:2]):
        raise ValueError(
            f"{got}; height and width must be at least {minimum} because {minimum_because}. "
            f"Pass a larger {argument.split('=')[0].split()[0]}, (height, width, channels){or_use}."
        )
    return keras.Input(shape, name="image") if tensor is None else tensor


def check_input_tensor(network, tensor, shape):
    """Raise a ValueError if `input_tensor` is not a Keras tensor of images or disagrees with `input_shape`."""
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


def head_dtype():
    """Return the precision of every head: float32 under every precision policy but float64, which keeps float64."""
    return "float64" if keras.config.dtype_policy().variable_dtype == "float64" else "float32"


def is_whole(value):
    """Return True for an integer, Python's or NumPy's, and False for a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def global_pool(x, pooling, *, name):
    """Pool a map (batch, height, width, channels) to a vector (batch, channels) in `head_dtype`: "avg" or "max"."""
    layer = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}[pooling]
    return layer(dtype=head_dtype(), name=name)(x)


def dense_classifier(x, shared, *, name):
    """Apply the last dense layer, (batch, features) -> (batch, classes), in `head_dtype`."""
    classes, activation = shared["classes"], shared["classifier_activation"]
    if classes == 1:
        function = keras.activations.get(activation)
        activation = OF_ONE_CLASS.get(function) or OF_ONE_CLASS.get(type(function), activation)
    return keras.layers.Dense(int(classes), activation=activation, dtype=head_dtype(), name=name)(x)


def classifier_head(x, shared, *, dropout=0.0, fully_connected=()):
    """End a network: global average, dropout and classifier, or what `include_top=False` and `pooling` say.

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


def finish(image, outputs, shared):
    """Return the model from its input to its outputs, with the weights of the file, or the published ones, if given."""
    inputs = keras.utils.get_source_inputs(image)
    model = keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=shared["name"])
    weights = shared["weights"]
    if isinstance(weights, published.Published):
        weights.load(model)
    elif weights is not None:
        checkpoints.load_weights(model, weights)
    return model


def main_output(model):
    """Return the network without its auxiliary heads, which are for training only.

    Args:
        model: A network with one output, returned as it is, or one with auxiliary heads, such as
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
    keep_preprocessing(model, main)
    return main


def labels_for(model, labels):
    """Return the labels in the form that plain `model.fit` needs: one copy per head.

    Keras matches labels and outputs by structure, so a network with auxiliary heads needs the same labels under each
    head's name. A network with one output takes them as they are.

    Args:
        model: A network, with or without auxiliary heads.
        labels: Labels, (batch,) or (batch, classes); an array or a tensor.

    Returns:
        `labels`, or for a network with auxiliary heads {head: `labels`}.

    Example:
        >>> model = keras_cnns.GoogLeNet(aux_heads=True, classes=10)
        >>> sorted(keras_cnns.labels_for(model, [3, 7]))
        ['aux1', 'aux2', 'main']
    """
    return dict.fromkeys(model.output, labels) if isinstance(model.output, dict) else labels
