"""The `builder` decorator: the arguments that every network takes, with their defaults, checks and descriptions.

A builder can read like its paper, and a variant is two lines, because the rest is stated once, here.
"""

import difflib
import functools
import inspect
import re
import typing

import keras

from keras_cnns import published


class SharedArguments(typing.TypedDict, total=False):
    """The arguments that every builder takes, spelled as in keras.applications."""

    name: str
    include_top: bool
    weights: str | None
    input_tensor: keras.KerasTensor | None
    input_shape: tuple[int | None, int | None, int] | None
    pooling: str | None
    classes: int
    classifier_activation: str | None


# The default name is the builder's own in lower case.
DEFAULTS = SharedArguments(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
)

SHARED_ARGS = """
Args:
    name: Name of the model.
    include_top: Whether to end with the classifier. Without it the output is the last feature map, or that map pooled
        as `pooling` says.
    weights: None for random initialisation; "imagenet" for published weights, of the networks that
        `keras_cnns.list_weights` lists, which are downloaded once; or the path of a safetensors file written by
        `keras_cnns.save_weights`. Never changes the graph. Weights trained elsewhere may need other preprocessing than
        this package's: the network then knows it, and `keras_cnns.resize_and_crop(image, model)` and
        `keras_cnns.preprocess_input(pixels, model)` follow it, while `preprocess_input(pixels)` does not.
    input_tensor: A Keras tensor (batch, height, width, channels) to build on, instead of `input_shape`.
    input_shape: (height, width, channels) without the batch; height and width may be None where the network can take
        any size. By default the paper's size in RGB, or any size in RGB when `include_top` is False.
    pooling: What follows the last feature map when `include_top` is False: None for the map itself
        (batch, height, width, channels), "avg" or "max" for a vector (batch, channels).
    classes: Number of classes. With 1 a softmax becomes a sigmoid, since a softmax over one class is constant.
    classifier_activation: Activation of the classifier; None gives logits.
"""

RETURNS_AND_RAISES = """
Returns:
    A `keras.Model` that takes images normalised by `keras_cnns.preprocess_input(pixels, model)`, (batch, height,
    width, channels).
    With `include_top` it returns (batch, classes), in float32 under every precision policy but float64.

Raises:
    ValueError: A size, shape, class count, pooling or weight file that the network cannot take, or published weights
        that do not exist.
    OSError: Published weights cannot be downloaded, or are not those that were published.
    TypeError: An argument that does not exist.
"""


def builder(function=None, *, family=None, **defaults):
    """Give a builder its full signature, its full docstring and the check of its arguments.

    The builder of a family is `def resnet(table, *, ..., **shared: Unpack[SharedArguments])`, a variant
    `def ResNet50(**arguments: Unpack[ResNetArguments])` with a one-line docstring. Defaults and descriptions of the
    arguments in the variant's TypedDict are those of its family.

    Every builder that this one calls receives its name as the private argument `_network`, for error messages.

    Args:
        function: The builder.
        family: The family's builder, for a variant.
        defaults: Defaults that differ from the family's, such as `classes=10` for CIFAR.
    """
    if function is None:
        return functools.partial(builder, family=family, **defaults)
    *explicit, rest = inspect.signature(function).parameters.values()
    (arguments,) = typing.get_args(rest.annotation)  # Unpack[arguments]
    annotations = arguments.__annotations__
    # The family's own arguments come first, as the explicit ones of a family's builder do.
    keys = sorted(annotations, key=lambda key: key in SharedArguments.__annotations__)
    of_family = inspect.signature(family).parameters if family else {}
    inherited = {key: parameter.default for key, parameter in of_family.items() if key in annotations}
    defaults = DEFAULTS | inherited | {"name": function.__name__.lower()} | defaults
    parameters = explicit + [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=defaults[key], annotation=annotations[key])
        for key in keys
    ]
    signature = inspect.Signature(parameters, return_annotation=keras.Model)
    positional = [p for p in explicit if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]

    @functools.wraps(function)
    def build(*args, **arguments):
        for argument in arguments:
            if argument not in signature.parameters and argument != "_network":
                raise TypeError(
                    f"{function.__name__} got the argument {argument!r}, which it does not have."
                    f"{did_you_mean(argument, signature.parameters)}"
                )
        if len(args) > len(positional):
            raise TypeError(
                f"{function.__name__} got {args!r} by position. Pass arguments by name, such as "
                f"{function.__name__}(include_top=True, weights=None)."
            )
        arguments = {"_network": function.__name__} | defaults | arguments
        if arguments["weights"] == "imagenet":
            arguments["weights"] = published.find(function.__name__, arguments, signature.parameters)
        return function(*args, **arguments)

    build.__signature__ = signature
    build.__doc__ = _docstring(function, family, signature.parameters)
    return build


def _docstring(function, family, parameters):
    """Return a builder's own text, the description of each of its parameters and, for a variant, an example."""
    own = inspect.getdoc(function)
    described = _descriptions(SHARED_ARGS) | _descriptions(family.__doc__ if family else "") | _descriptions(own)
    text = own.partition("\nArgs:")[0].rstrip() + "\n\nArgs:\n"
    text += "".join(described[name] for name in parameters) + RETURNS_AND_RAISES
    if family and "table" not in parameters:
        text += f"\nExample:\n    >>> keras_cnns.{function.__name__}(classes=10).output_shape\n    (None, 10)\n"
    return text


def _descriptions(docstring):
    """Return {argument: its lines} of the Args section of a docstring."""
    section = docstring.partition("\nArgs:\n")[2].partition("\n\n")[0].rstrip() + "\n"
    entries = re.split(r"^(?=    \w+:)", section, flags=re.MULTILINE)
    return {entry.partition(":")[0].strip(): entry for entry in entries if entry.strip()}


def did_you_mean(word, known):
    """Return the end of an error about a wrong name: the known names that come near it, or all of them."""
    near = difflib.get_close_matches(word.lower(), {name.lower(): name for name in known}, n=3)
    names = [name for name in known if name.lower() in near] or list(known)
    return f" Did you mean {', '.join(names)}?" if near else f" It has {', '.join(names)}."
