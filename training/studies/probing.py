"""What several studies look at: errors on images in memory, and gradients by layer of a network in training."""

import numpy as np
import tensorflow as tf

import keras_cnns
from training.batches import evaluation_batches
from training.dashboards.probes import restored
from training.data import load_data
from training.step import losses_by_head, outputs_by_head


def arrays(recipe, split="test", most=None):
    """Return images (count, size, size, 3), RGB 0..255, and labels of a split of a recipe's data.

    Args:
        recipe: The recipe.
        split: "train", "validation" or "test".
        most: At most so many images, the first ones.
    """
    batches = list(evaluation_batches(getattr(load_data(recipe), split), recipe).as_numpy_iterator())
    images, labels = (np.concatenate(parts)[:most] for parts in zip(*batches, strict=True))
    return images, labels


def error_of(network, preprocessing, images, labels):
    """Return a function () -> the share in % of images that the network gets wrong with the weights that it has then.

    Args:
        network: A network with one output.
        preprocessing: A mode of keras_cnns.preprocess_input.
        images: (count, height, width, 3), RGB 0..255.
        labels: (count,).
    """
    images = keras_cnns.preprocess_input(tf.constant(images), preprocessing)

    @tf.function(autograph=False)
    def wrong():
        return tf.reduce_mean(tf.cast(tf.argmax(network(images, training=False), axis=-1) != labels, "float32"))

    return lambda: 100 * float(wrong())


def gradient_norms(model, recipe, images, labels, head=None, weight=1.0):
    """Return {name of a convolution or dense layer: norm of the gradient by its kernel} of a network in training.

    The layers are those without the auxiliary heads, from the first to the last. The model stays as it was.

    Args:
        model: The model, whose outputs are logits.
        recipe: Its recipe.
        images: (count, size, size, 3), RGB 0..255.
        labels: (count,).
        head: The head whose loss alone counts; by default all of them.
        weight: Factor of the loss.
    """
    targets = tf.one_hot(labels, model.outputs[0].shape[-1])
    kernels = [
        variable
        for variable in model.trainable_variables
        if variable.path.endswith("/kernel") and not keras_cnns.is_auxiliary(variable.path)
    ]
    with restored(model.non_trainable_variables), tf.GradientTape() as tape:
        outputs = outputs_by_head(model(keras_cnns.preprocess_input(images, recipe.preprocessing), training=True))
        losses = losses_by_head(outputs, targets, len(labels))
        loss = weight * (losses[head] if head else sum(losses.values()))
    gradients = tape.gradient(loss, [kernel.value for kernel in kernels], unconnected_gradients="zero")
    norms = [float(tf.norm(gradient)) for gradient in gradients]
    return dict(zip((kernel.path.rpartition("/")[0] for kernel in kernels), norms, strict=True))
