"""What an export is: one graph from pixels to probabilities, its description, and the SavedModel."""

import dataclasses
import json
import platform
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

import keras_cnns
from training.image_file import FORMATS
from training.pixels import decode, resize

KEY = "keras_cnns"  # of the description in the metadata of a format
# TensorFlow holds many copies of a constant: a program that serves ResNet50 takes 1.5 GB more with 90 MiB of
# constants, and answers 1.1 to 1.5 times as fast.
CONSTANTS = 128 * 2**20  # bytes


@dataclass(frozen=True)
class Description:
    """What an export has besides the network; it travels in the metadata of its format.

    Attributes:
        classes: The class names, in the order of the outputs.
        image_size: How images are brought to their size.
        preprocessing: A mode of keras_cnns.preprocess_input.
        temperature: What logits are divided by, see training.calibration.
        origin: Where the network comes from, {str: JSON value}.
    """

    classes: list[str]
    image_size: keras_cnns.ImageSize
    preprocessing: str
    temperature: float = 1.0
    origin: dict = dataclasses.field(default_factory=dict)

    def to_json(self):
        """Return it as JSON text, with the versions of what writes the export."""
        versions = {"keras": keras.__version__, "tensorflow": tf.__version__, "python": platform.python_version()}
        values = dataclasses.asdict(self) | {"image_size": self.image_size._asdict(), "versions": versions}
        return json.dumps(values)

    @classmethod
    def from_json(cls, text):
        """Return the one that `to_json` has written."""
        values = json.loads(text)
        values["image_size"] = keras_cnns.ImageSize(**values["image_size"])
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def on_pixels(network, description, fixed_size=False):
    """Return a model from pixels, RGB 0..255 (batch, height, width, 3), to probabilities (batch, classes).

    Args:
        network: A network whose only output is logits or probabilities.
        description: Its Description.
        fixed_size: Whether images have the size of the description, where the network takes others too.
    """
    shape = (description.image_size.size,) * 2 if fixed_size else network.inputs[0].shape[1:3]
    images = keras.Input((*shape, 3), name="images")
    x = network(keras_cnns.preprocess_input(images, description.preprocessing))
    if gives_logits(network):
        if description.temperature != 1:
            x = keras.layers.Rescaling(1 / description.temperature, name="temperature")(x)
        x = keras.layers.Softmax(name="probabilities")(x)
    return keras.Model(images, x, name=network.name)


def gives_logits(network):
    """Return whether the output of a network is logits, and not probabilities."""
    last = network.layers[-1]
    return getattr(last, "activation", None) in (None, keras.activations.linear) and not isinstance(
        last, keras.layers.Softmax
    )


def write_saved_model(network, description, folder):
    """Write a SavedModel with two signatures, for TensorFlow Serving or `tf.saved_model.load`.

    serving_default: images, float32 RGB 0..255 (batch, height, width, 3) of any size that the network accepts ->
        probabilities (batch, classes).
    serve_bytes: images, strings (batch,), each a JPEG, PNG, GIF, BMP or WebP file, which are decoded and resized as in
        evaluation -> probabilities (batch, classes), top_classes (batch, 5) as names, top_probabilities (batch, 5).
        The error for an image that cannot be decoded gives its position in the batch.

    Weights of up to CONSTANTS bytes are constants of its graph, once for both signatures, besides the kernels of dense
    layers. Filters that are variables TensorFlow with oneDNN arranges anew for each batch, which takes longer than the
    convolutions of a single image; and from variables the scale of a batch normalization is computed anew. The
    description is the file keras_cnns.json of its extra assets, which TensorFlow leaves alone.

    Args:
        network: A network whose only output is logits or probabilities.
        description: Its Description.
        folder: The folder of the SavedModel, which is created.
    """
    model, module, names = on_pixels(network, description), tf.Module(), tf.constant(description.classes)
    pixels = tf.TensorSpec(model.inputs[0].shape, tf.float32, name="images")
    constants = [(variable, variable.numpy()) for variable in model.weights if len(variable.shape) != 2]
    if sum(values.nbytes for _, values in constants) > CONSTANTS:
        constants = []
    replaced = {id(variable) for variable, _ in constants}
    module.weights = [variable.value for variable in model.weights if id(variable) not in replaced]

    @tf.function(input_signature=[pixels], autograph=False)
    def probabilities(images):
        mapping = [(variable, tf.constant(values)) for variable, values in constants]
        # By default Keras would then also give values to all networks that were built without, to be counted.
        with keras.StatelessScope(mapping, initialize_variables=False):
            return model(images, training=False)

    @tf.function(input_signature=[pixels], autograph=False)
    def serve(images):
        return {"probabilities": probabilities(tf.ensure_shape(images, pixels.shape))}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="images")], autograph=False)
    def serve_bytes(images):
        result = probabilities(decode_batch(images, *description.image_size))
        top, indices = tf.math.top_k(result, k=min(5, len(description.classes)))
        return {"probabilities": result, "top_classes": tf.gather(names, indices), "top_probabilities": top}

    module.serving_default, module.serve_bytes = serve, serve_bytes
    tf.saved_model.save(module, str(folder), {"serving_default": serve, "serve_bytes": serve_bytes})
    extra = extra_file(folder)
    extra.parent.mkdir()
    extra.write_text(description.to_json() + "\n")


def extra_file(folder):
    """Return the path of the description in a SavedModel."""
    return Path(folder) / "assets.extra" / f"{KEY}.json"


def decode_batch(images, size, crop=1.0, interpolation="bilinear"):
    """Decode and resize a batch of encoded images as evaluation does.

    Args:
        images: Strings (batch,).
        size: Height and width of the result.
        crop, interpolation: See `training.pixels.resize`.

    Returns:
        (batch, size, size, 3), float32 RGB 0..255.

    Raises:
        tf.errors.InvalidArgumentError: An image cannot be decoded; the message gives its position.
    """
    count = tf.size(images, tf.int64)
    # A graph cannot catch an error, but a data set can skip elements that fail; one more element marks the end.
    decoded = tf.data.Dataset.from_tensor_slices(images).enumerate()
    decoded = decoded.map(
        lambda index, image: (index, resize(decode(image), size, crop, interpolation)), tf.data.AUTOTUNE
    ).ignore_errors()
    end = tf.data.Dataset.from_tensors((count, tf.zeros((size, size, 3))))
    indices, pixels = decoded.concatenate(end).batch(count + 1).get_single_element()
    missing = tf.argmin(tf.cast(indices == tf.range(tf.size(indices, tf.int64)), tf.int32))  # the first
    message = tf.strings.format(f"images[{{}}] cannot be decoded: it is not a {FORMATS} image, or is broken", missing)
    with tf.control_dependencies([tf.debugging.Assert(tf.size(indices, tf.int64) > count, [message])]):
        return tf.identity(pixels[:-1])
