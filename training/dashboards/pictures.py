"""Pictures: what the network sees, what it says about it and why, and the Projector's cloud of features."""

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins import projector

import keras_cnns
from keras_cnns.layers import DeformableConv2D
from training.dashboards.log import Board, grid, is_due, new_figure

SHOWN = 8  # images of a picture
PROJECTED = 1000  # points of the Projector
SPRITE = 32  # pixels of an image in the Projector


class Pictures(Board):
    """Writes pictures at an interval of epochs, and the last features for the Projector.

    Args:
        log: The log.
        validation: Function () -> batches of images, RGB 0..255 (batch, height, width, 3), and labels (batch,).
        class_names: The class names.
        preprocessing: A mode of keras_cnns.preprocess_input.
        shown: Function (epoch) -> a batch of training images as the network sees them, before normalisation.
        every: Epochs between two rounds; 0 for none.
        from_logits: Whether the network gives logits, not probabilities.
    """

    def __init__(
        self, log, validation, class_names, preprocessing="imagenet", *, shown=None, every=5, from_logits=True
    ):
        super().__init__(log)
        self.validation, self.class_names, self.preprocessing = validation, class_names, preprocessing
        self.shown, self.every, self.from_logits = shown, every, from_logits
        self.network = None

    def on_epoch_end(self, epoch, logs=None):
        if is_due(epoch + 1, self.every):
            self.draw(epoch + 1)

    def draw(self, epochs):
        """Writes all pictures of the network as it is after a number of epochs."""
        if self.network is None:
            self.network = keras_cnns.main_output(self.model)
            self.look, self.explain = make_look(self.network, self.from_logits), make_grad_cam(self.network)
        if self.shown is not None:
            images = np.asarray(self.shown(epochs - 1))[: 2 * SHOWN]
            self.log.figure("augmented", grid(images), epochs)
        filters = first_filters(self.network)
        if filters is not None:
            self.log.figure("first_filters", grid(filters, columns=8), epochs)

        seen = self.pass_over_validation()
        fixed = np.stack(seen.images)
        heat = self.explain(self.normalised(fixed)).numpy()
        pictures = {
            "predictions": titled(seen.first, self.class_names),
            "most_confident_mistakes": titled(seen.mistakes, self.class_names),
            "confusion": confusion_figure(seen.confusion, self.class_names),
            "grad_cam": grid([overlay(*pair) for pair in zip(fixed, heat, strict=True)]),
        }
        deformable = [layer for layer in self.network.layers if isinstance(layer, DeformableConv2D)]
        # On a map that is smaller all points but one may be outside of it.
        large = [layer for layer in deformable if all(side is None or side >= 6 for side in layer.input.shape[1:3])]
        for layer in (large or deformable)[-1:]:
            points = sampling_points(self.network, layer, self.normalised(fixed))
            pictures[f"sampling_points/{layer.name}"] = points_figure(fixed, points)
        for tag, figure in pictures.items():
            self.log.figure(tag, figure, epochs, "validation")
        self.log.flush()
        write_projector(self.log.folder / "validation", seen, self.class_names)

    def pass_over_validation(self):
        """What the network says of every validation image."""
        seen = Seen(len(self.class_names))
        for images, labels in self.validation():
            probabilities, features = self.look(self.normalised(images))
            seen.add(np.asarray(images), np.asarray(labels), probabilities.numpy(), features.numpy())
        return seen

    def normalised(self, images):
        return keras_cnns.preprocess_input(tf.cast(images, tf.float32), self.preprocessing)


class Seen:
    """What a pass over a split leaves: counts, the first images, the most confident mistakes, points for the Projector.

    Attributes:
        confusion: Counts (true class, predicted class).
        images: The first SHOWN.
        small, labels, probabilities, features: Of the first PROJECTED images, which are scaled to SPRITE pixels.
        mistakes: (image, label, probabilities), the most confident first.
    """

    def __init__(self, classes):
        self.confusion = np.zeros((classes, classes), int)
        self.images, self.mistakes = [], []
        self.small, self.labels, self.probabilities, self.features = [], [], [], []

    def add(self, images, labels, probabilities, features):
        """Takes a batch in."""
        guesses = probabilities.argmax(axis=-1)
        np.add.at(self.confusion, (labels, guesses), 1)
        wrong = [(images[i], labels[i], probabilities[i]) for i in np.flatnonzero(guesses != labels)]
        self.mistakes = sorted([*self.mistakes, *wrong], key=lambda mistake: -mistake[2].max())[:SHOWN]
        room = PROJECTED - len(self.labels)
        self.images += list(images[: SHOWN - len(self.images)])
        self.small += list(tf.image.resize(images[:room], (SPRITE, SPRITE), antialias=True).numpy())
        self.labels += list(labels[:room])
        self.probabilities += list(probabilities[:room])
        self.features += list(features[:room])

    @property
    def first(self):
        """The first images, as (image, label, probabilities)."""
        count = len(self.images)
        return list(zip(self.images, self.labels[:count], self.probabilities[:count], strict=True))


def make_look(network, from_logits):
    """A function (normalised images) -> probabilities (batch, classes), penultimate features (batch, features)."""
    dense = [layer for layer in network.layers if hasattr(layer, "kernel")][-1]
    inner = keras.Model(network.input, [dense.input, network.output])

    @tf.function(reduce_retracing=True)
    def look(images):
        features, outputs = inner(images, training=False)
        probabilities = tf.nn.softmax(outputs) if from_logits else outputs
        return probabilities, tf.cast(tf.reshape(features, (tf.shape(features)[0], -1)), "float32")

    return look


def make_grad_cam(network):
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of the predicted class: where the last map speaks for it.

    Returns:
        A function (normalised images) -> maps (batch, height, width) between 0 and 1, of the last map's size.
    """
    last = [layer for layer in network.layers if has_map(layer)][-1]
    inner = keras.Model(network.input, [last.output, network.output])

    @tf.function(reduce_retracing=True)
    def explain(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            maps, outputs = inner(images, training=False)
            score = tf.reduce_max(outputs, axis=-1)
        importance = tf.reduce_mean(tf.cast(tape.gradient(score, maps), "float32"), axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(importance * tf.cast(maps, "float32"), axis=-1))
        return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))

    return explain


def has_map(layer):
    """Whether a layer gives a map of more than one pixel that depends on weights."""
    if isinstance(layer, keras.layers.InputLayer) or isinstance(layer.output, list):
        return False
    shape = layer.output.shape
    return len(shape) == 4 and tuple(shape[1:3]) != (1, 1)


def first_filters(network):
    """The first convolution's filters as images, each from its smallest to its largest weight; None if they are not
    of three channels."""
    kernel = next(
        (keras.ops.convert_to_numpy(layer.kernel) for layer in network.layers if hasattr(layer, "kernel")), None
    )
    if kernel is None or kernel.ndim != 4 or kernel.shape[2] != 3:
        return None
    kernel = np.moveaxis(kernel, -1, 0)[:64]
    low, high = kernel.min(axis=(1, 2, 3), keepdims=True), kernel.max(axis=(1, 2, 3), keepdims=True)
    return 255 * (kernel - low) / np.maximum(high - low, 1e-12)


def titled(seen, class_names):
    """Images with what the network says of them, its confidence, and the truth where it differs."""
    titles, colours = [], []
    for _, label, probabilities in seen:
        guess = probabilities.argmax()
        truth = "" if guess == label else f"\nis {class_names[label]}"
        titles.append(f"{class_names[guess]} {probabilities[guess]:.0%}{truth}")
        colours.append("green" if guess == label else "red")
    return grid([image for image, *_ in seen], titles, colours=colours)


def confusion_figure(confusion, class_names):
    """The confusion matrix: rows are true classes, columns predicted ones, colours shares of a row."""
    classes = len(class_names)
    figure = new_figure(6, 5.5)
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the class's images")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if classes <= 20:
        axes.set_xticks(range(classes), class_names, rotation=90)
        axes.set_yticks(range(classes), class_names)
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
    return figure


def overlay(image, heat):
    """An image with a map over it: red where the map is 1, the plain image, darker, where it is 0."""
    heat = tf.image.resize(heat[..., None], image.shape[:2]).numpy()
    return 0.6 * image + 0.4 * heat * np.array([255.0, 0.0, 0.0])


def sampling_points(network, layer, images):
    """Where a deformable convolution's kernel points look, for the middle position of its output.

    Returns:
        (batch, points, 2), down and right, in units of the layer's input map, whose pixel centres are at 0, 1, 2, ...;
        then the height and width of that map.
    """
    maps = keras.Model(network.input, layer.input)(images, training=False)
    points = layer.sampling_points(maps).numpy()
    return points[:, points.shape[1] // 2, points.shape[2] // 2, :, 0], tuple(maps.shape[1:3])


def points_figure(images, points):
    """Images with the points on them."""
    positions, size = points
    figure = grid(images)
    for axes, image, where in zip(figure.axes, images, positions, strict=True):
        scale = np.array(image.shape[:2]) / size
        down, right = ((where + 0.5) * scale - 0.5).T
        axes.plot(right, down, "r.", markersize=6)
        axes.set_xlim(-0.5, image.shape[1] - 0.5)
        axes.set_ylim(image.shape[0] - 0.5, -0.5)
    return figure


def write_projector(folder, seen, class_names):
    """Writes the penultimate features with labels and small images, where TensorBoard's Projector looks for them."""
    np.savetxt(folder / "features.tsv", np.stack(seen.features), fmt="%.5g", delimiter="\t")
    (folder / "labels.tsv").write_text("".join(f"{class_names[label]}\n" for label in seen.labels))
    side = int(np.ceil(np.sqrt(len(seen.small))))
    sprite = np.full((side * side, SPRITE, SPRITE, 3), 255.0)
    sprite[: len(seen.small)] = seen.small
    sprite = sprite.reshape(side, side, SPRITE, SPRITE, 3).swapaxes(1, 2).reshape(side * SPRITE, side * SPRITE, 3)
    tf.io.write_file(str(folder / "sprite.png"), tf.io.encode_png(sprite.clip(0, 255).astype(np.uint8)))
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name, embedding.tensor_path, embedding.metadata_path = "features", "features.tsv", "labels.tsv"
    embedding.sprite.image_path = "sprite.png"
    embedding.sprite.single_image_dim.extend([SPRITE, SPRITE])
    (folder / "projector_config.pbtxt").write_text(text_format.MessageToString(config))
