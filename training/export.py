"""The SavedModel: the network with everything around it, from encoded images to class names, in one graph."""

import keras
import tensorflow as tf

import keras_cnns
from training.data import decode, resize


def export(network, class_names, recipe, folder):
    """Writes a SavedModel with two signatures, for TensorFlow Serving or `tf.saved_model.load`.

    serving_default: images, float32 RGB 0..255 (batch, height, width, 3) of any size that the network takes ->
        probabilities (batch, classes).
    serve_bytes: images, strings (batch,), each a JPEG, PNG, GIF or BMP file, which are decoded and resized as in
        evaluation -> probabilities (batch, classes), top_classes (batch, 5) as names, top_probabilities (batch, 5).

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
        return {"probabilities": probabilities(images)}

    def serve_bytes(images):
        pixels = tf.map_fn(
            lambda image: resize(decode(image), image_size),
            images,
            fn_output_signature=tf.TensorSpec((image_size, image_size, 3), tf.float32),
        )
        result = probabilities(pixels)
        top, indices = tf.math.top_k(result, k=min(5, len(class_names)))
        return {"probabilities": result, "top_classes": tf.gather(names, indices), "top_probabilities": top}

    archive = keras.export.ExportArchive()
    shape = network.inputs[0].shape
    archive.add_endpoint("serving_default", serve, [tf.TensorSpec(shape, tf.float32, name="images")])
    archive.add_endpoint("serve_bytes", serve_bytes, [tf.TensorSpec((None,), tf.string, name="images")])
    archive.write_out(str(folder), verbose=False)
