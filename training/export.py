"""The SavedModel: the network with everything around it, from encoded images to class names, in one graph."""

import keras
import tensorflow as tf

import keras_cnns
from training.image_file import FORMATS
from training.pixels import decode, resize


def export(network, class_names, recipe, folder):
    """Write a SavedModel with two signatures, for TensorFlow Serving or `tf.saved_model.load`.

    serving_default: images, float32 RGB 0..255 (batch, height, width, 3) of any size that the network takes ->
        probabilities (batch, classes).
    serve_bytes: images, strings (batch,), each a JPEG, PNG, GIF, BMP or WebP file, which are decoded and resized as in
        evaluation -> probabilities (batch, classes), top_classes (batch, 5) as names, top_probabilities (batch, 5).
        The error for an image that cannot be decoded says its position in the batch.

    Args:
        network: A network with logits as its one output.
        class_names: Name of each class.
        recipe: Gives the size to which `serve_bytes` resizes, and the normalisation of the pixels.
        folder: Where the SavedModel goes; made.
    """
    names, image_size = tf.constant(class_names), recipe.image_size

    def probabilities(images):
        return tf.nn.softmax(network(keras_cnns.preprocess_input(images, recipe.preprocessing), training=False))

    def serve(images):
        return {"probabilities": probabilities(tf.ensure_shape(images, shape))}

    def serve_bytes(images):
        result = probabilities(decode_batch(images, image_size))
        top, indices = tf.math.top_k(result, k=min(5, len(class_names)))
        return {"probabilities": result, "top_classes": tf.gather(names, indices), "top_probabilities": top}

    archive, shape = keras.export.ExportArchive(), network.inputs[0].shape
    archive.add_endpoint("serving_default", serve, [tf.TensorSpec(shape, tf.float32, name="images")])
    archive.add_endpoint("serve_bytes", serve_bytes, [tf.TensorSpec((None,), tf.string, name="images")])
    archive.write_out(str(folder), verbose=False)


def decode_batch(images, size):
    """Decode and resize a batch of encoded images as evaluation does.

    Args:
        images: Strings (batch,).
        size: Height and width of the result.

    Returns:
        (batch, size, size, 3), float32 RGB 0..255.

    Raises:
        tf.errors.InvalidArgumentError: An image cannot be decoded; the message says which.
    """
    count = tf.size(images, tf.int64)
    # A graph cannot catch an error, but a data set can leave out what fails; an element at the end closes the list.
    decoded = tf.data.Dataset.from_tensor_slices(images).enumerate()
    decoded = decoded.map(lambda index, image: (index, resize(decode(image), size)), tf.data.AUTOTUNE).ignore_errors()
    end = tf.data.Dataset.from_tensors((count, tf.zeros((size, size, 3))))
    indices, pixels = decoded.concatenate(end).batch(count + 1).get_single_element()
    missing = tf.argmin(tf.cast(indices == tf.range(tf.size(indices, tf.int64)), tf.int32))  # the first
    message = tf.strings.format(f"images[{{}}] cannot be decoded: it is no {FORMATS} image, or is broken", missing)
    with tf.control_dependencies([tf.debugging.Assert(tf.size(indices, tf.int64) > count, [message])]):
        return tf.identity(pixels[:-1])
