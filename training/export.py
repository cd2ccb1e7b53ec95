"""The SavedModel: one graph from encoded images to class names."""

import keras
import tensorflow as tf

from training.forward import probabilities
from training.image_file import FORMATS
from training.pixels import decode, resize


def write_saved_model(network, class_names, recipe, folder):
    """Write a SavedModel with two signatures, for TensorFlow Serving or `tf.saved_model.load`.

    serving_default: images, float32 RGB 0..255 (batch, height, width, 3) of any size that the network accepts ->
        probabilities (batch, classes).
    serve_bytes: images, strings (batch,), each a JPEG, PNG, GIF, BMP or WebP file, which are decoded and resized as in
        evaluation -> probabilities (batch, classes), top_classes (batch, 5) as names, top_probabilities (batch, 5).
        The error for an image that cannot be decoded gives its position in the batch.

    Args:
        network: A network whose only output is logits.
        class_names: Name of each class.
        recipe: The recipe, for what `serve_bytes` does with images and the normalisation of the pixels.
        folder: The folder of the SavedModel, which is created.
    """
    names = tf.constant(class_names)

    def serve(images):
        images = tf.ensure_shape(images, shape)
        return {"probabilities": probabilities(network, images, recipe.preprocessing)}

    def serve_bytes(images):
        result = probabilities(network, decode_batch(images, *recipe.resizing), recipe.preprocessing)
        top, indices = tf.math.top_k(result, k=min(5, len(class_names)))
        return {"probabilities": result, "top_classes": tf.gather(names, indices), "top_probabilities": top}

    archive, shape = keras.export.ExportArchive(), network.inputs[0].shape
    archive.add_endpoint("serving_default", serve, [tf.TensorSpec(shape, tf.float32, name="images")])
    archive.add_endpoint("serve_bytes", serve_bytes, [tf.TensorSpec((None,), tf.string, name="images")])
    archive.write_out(str(folder), verbose=False)


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
