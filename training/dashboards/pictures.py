"""Pictures of what the network sees, what it predicts and why, and the features for the Projector."""

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins import projector

import keras_cnns
from keras_cnns.layers import DeformableConv2D
from training.dashboards.log import Board, grid, is_due, new_figure, writing
from training.forward import forward

SHOWN = 8  # images per picture
PROJECTED = 1000  # points of the Projector
SPRITE = 32  # pixels of an image in the Projector
LONGEST = 20  # characters of a class name in a picture

# Layers without weights that compute a feature map. Pooling, padding and dropout only pass one on.
COMPUTING = (
    keras.layers.Add,
    keras.layers.Concatenate,
    keras.layers.Multiply,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
)


class Pictures(Board):
    """Write pictures at an interval of epochs, and the latest features for the Projector.

    Args:
        log: The log.
        validation: Function () -> batches of images, RGB 0..255 (batch, height, width, 3), and labels (batch,).
        class_names: The class names.
        preprocessing: A mode of keras_cnns.preprocess_input.
        shown: Function (epoch) -> a batch of augmented training images, before normalisation.
        every: Number of epochs between two sets of pictures; 0 for none.
        from_logits: Whether the network outputs logits rather than probabilities.
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

    def draw(self, epochs, prefix=""):
        """Write all pictures after a number of epochs, under tags that begin with `prefix`."""
        if self.network is None:
            self.network = keras_cnns.main_output(self.model)
            self.look, self.explain = make_look(self.network, self.preprocessing, self.from_logits), None
        if self.shown is not None:
            images = np.asarray(self.shown(epochs - 1))[: 2 * SHOWN]
            self.log.figure(f"{prefix}augmented", grid(images), epochs)
        filters = first_filters(self.network)
        if filters is not None:
            self.log.figure(f"{prefix}first_filters", grid(filters, columns=8), epochs)

        seen = self.pass_over(self.validation())
        fixed = np.stack(seen.images)
        pictures = {"predictions": titled(seen.first, self.class_names), **answers(seen, self.class_names)}
        self.explain = self.explain or make_grad_cam(self.network, fixed.shape[1:3])
        if self.explain:
            heat = self.explain(self.normalised(fixed)).numpy()
            explained = [(overlay(image, map_), *rest) for (image, *rest), map_ in zip(seen.first, heat, strict=True)]
            pictures["grad_cam"] = titled(explained, self.class_names)
        deformable = [layer for layer in self.network.layers if isinstance(layer, DeformableConv2D)]
        # On a smaller map, all points but one may lie outside it.
        sizes = sizes_of(self.network, [layer.input for layer in deformable], fixed.shape[1:3])
        large = [layer for layer, size in zip(deformable, sizes, strict=True) if min(size) >= 6]
        for layer in (large or deformable)[-1:]:
            points = sampling_points(self.network, layer, self.normalised(fixed))
            pictures[f"sampling_points/{layer.name}"] = points_figure(fixed, points)
        self.write(pictures, epochs, prefix, "validation")
        write_projector(self.log.folder / "validation", seen, self.class_names)

    def write(self, pictures, epochs, prefix, split):
        """Write {tag: figure} for a split."""
        for tag, figure in pictures.items():
            self.log.figure(prefix + tag, figure, epochs, split)
        self.log.flush()

    def pass_over(self, batches):
        """Run the network over a split and return the results, as `SplitSummary`."""
        seen = SplitSummary(len(self.class_names))
        for images, labels in batches:
            probabilities, features = self.look(tf.cast(images, tf.float32))
            seen.add(np.asarray(images), np.asarray(labels), probabilities.numpy(), features.numpy())
        return seen

    def normalised(self, images):
        return keras_cnns.preprocess_input(tf.cast(images, tf.float32), self.preprocessing)


class SplitSummary:
    """The results of a pass over a split.

    Attributes:
        confusion: Counts (true class, predicted class).
        images: The first SHOWN images.
        small, labels, probabilities, features: Of the first PROJECTED images; `small` are scaled to SPRITE pixels.
        mistakes: The SHOWN most confident mistakes as (image, label, probabilities), the most confident first.
    """

    def __init__(self, classes):
        self.confusion = np.zeros((classes, classes), int)
        self.images, self.mistakes = [], []
        self.small, self.labels, self.probabilities, self.features = [], [], [], []

    def add(self, images, labels, probabilities, features):
        """Add a batch."""
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
        """The first images as (image, label, probabilities)."""
        count = len(self.images)
        return list(zip(self.images, self.labels[:count], self.probabilities[:count], strict=True))


def make_look(network, preprocessing, from_logits):
    """Return a function: pixels -> probabilities (batch, classes) and penultimate features (batch, n)."""
    dense = [layer for layer in network.layers if hasattr(layer, "kernel")][-1]
    inner = keras.Model(network.input, [dense.input, network.output])

    @tf.function(reduce_retracing=True, autograph=False)
    def look(images):
        features, outputs = forward(inner, images, preprocessing)
        probabilities = tf.nn.softmax(outputs) if from_logits else outputs
        return probabilities, tf.cast(tf.reshape(features, (tf.shape(features)[0], -1)), "float32")

    return look


def make_grad_cam(network, size):
    """Return a function that computes Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of the predicted class.

    Args:
        network: The network, with one output.
        size: (height, width) of the images.

    Returns:
        A function (normalised images) -> maps (batch, height, width) between 0 and 1, of the size of `last_map`; None
        if the network has no feature map.
    """
    last, (tensor, to_scores) = last_map(network, size), scores_of(network)
    if last is None:
        return None
    inner = keras.Model(network.input, [last.output, tensor])

    @tf.function(reduce_retracing=True, autograph=False)
    def explain(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            maps, values = inner(images, training=False)
            score = tf.reduce_max(to_scores(values), axis=-1)
        importance = tf.reduce_mean(tf.cast(tape.gradient(score, maps), "float32"), axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(importance * tf.cast(maps, "float32"), axis=-1))
        return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))

    return explain


def last_map(network, size):
    """Return the last layer whose feature map the whole output depends on, larger than 1x1 if there is one.

    Sizes are computed for images of `size`, since the layers of a network for any size do not know theirs.

    Padding and pooling only pass on a map, with borders of zeros or fewer positions; a map beside a shortcut explains
    only half of the output. None is returned if the maps are inside a model nested in the network.
    """
    maps = [
        layer
        for layer in network.layers
        if (layer.weights or isinstance(layer, COMPUTING)) and not isinstance(layer, keras.Model)
        if len(getattr(layer.output, "shape", ())) == 4
    ]
    sizes = sizes_of(network, [layer.output for layer in maps], size)
    large = [layer for layer, size in zip(maps, sizes, strict=True) if size != (1, 1)]
    return next((layer for layer in reversed(large or maps) if separates(layer, network)), None)


def sizes_of(network, maps, size):
    """Return the (height, width) of feature maps of a network for images of a size."""
    if not maps:
        return []
    specs = keras.Model(network.input, maps).compute_output_spec(keras.KerasTensor((1, *size, network.input.shape[-1])))
    return [tuple(spec.shape[1:3]) for spec in keras.tree.flatten(specs)]


def separates(layer, network):
    """Return whether every path from the network's input to its output goes through a layer."""
    makers = {id(tensor): made for made in network.operations for tensor in keras.tree.flatten(made.output)}
    waiting, seen = [makers[id(network.output)]], {layer}
    while waiting:
        made = waiting.pop()
        if made is None or isinstance(made, keras.layers.InputLayer):  # None: made inside a nested model
            return False
        if made not in seen:
            seen.add(made)
            waiting += [makers.get(id(tensor)) for tensor in keras.tree.flatten(made.input)]
    return True


def scores_of(network):
    """Return a tensor of the network and a function that computes the class scores from it, before any softmax.

    The gradient of a probability vanishes where the network is certain, and mixes in the other classes.
    """
    last = network.layers[-1]
    if getattr(last, "activation", None) is keras.activations.softmax and isinstance(last, keras.layers.Dense):
        return last.input, lambda features: features @ last.kernel + (last.bias if last.use_bias else 0.0)
    if isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) is keras.activations.softmax:
        return last.input, tf.identity
    return network.output, tf.identity


def first_filters(network):
    """Return the first convolution's filters as images, each scaled from its smallest to its largest weight.

    None is returned if they do not have three channels.
    """
    kernel = next(
        (keras.ops.convert_to_numpy(layer.kernel) for layer in network.layers if hasattr(layer, "kernel")), None
    )
    if kernel is None or kernel.ndim != 4 or kernel.shape[2] != 3:
        return None
    kernel = np.moveaxis(kernel, -1, 0)[:64]
    low, high = kernel.min(axis=(1, 2, 3), keepdims=True), kernel.max(axis=(1, 2, 3), keepdims=True)
    return 255 * (kernel - low) / np.maximum(high - low, 1e-12)


def titled(seen, class_names):
    """Draw images with the predicted class, its probability, and the true class where it differs."""
    titles, colours = [], []
    for _, label, probabilities in seen:
        guess = probabilities.argmax()
        truth = "" if guess == label else f"\nis {short(class_names[label])}"
        titles.append(f"{short(class_names[guess])} {probabilities[guess]:.0%}{truth}")
        colours.append("green" if guess == label else "red")
    return grid([image for image, *_ in seen], titles, colours=colours)


def answers(seen, class_names):
    """Return {tag: figure} for a whole split: the confusion matrix and the most confident mistakes."""
    mistakes = titled(seen.mistakes, class_names) if seen.mistakes else written("no mistakes")
    return {"most_confident_mistakes": mistakes, "confusion": confusion_figure(seen.confusion, class_names)}


def written(text):
    """Return a figure that shows a text."""
    figure = new_figure(4, 1)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=14)
    return figure


def one_line(name):
    """Return a class name with tabs and line breaks written as escapes."""
    return name.translate({ord("\t"): r"\t", ord("\n"): r"\n", ord("\r"): r"\r"})


def short(name):
    """Return a class name for a picture, on one line and cut to LONGEST characters."""
    name = one_line(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def confusion_figure(confusion, class_names):
    """Draw the confusion matrix: rows are true classes, columns predicted ones, colours the share of the row.

    Counts are written for up to 20 classes, names for up to 50.
    """
    classes = len(class_names)
    size = 10 if classes <= 20 else 7  # font size in points
    cell = 0.5 if classes <= 20 else 0.15 if classes <= 50 else 10 / classes  # inches
    names = [short(name) for name in class_names] if classes <= 50 else []
    side = max(3.0, cell * classes) + size / 100 * max(map(len, names), default=4)
    figure = new_figure(side + 1.5, side + 0.5)
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the class's images")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if names:
        axes.set_xticks(range(classes), names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=size, parse_math=False)
    if classes <= 20:
        digits = min(14, 50 / len(str(confusion.max())))  # font size that fits into a cell
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, count, ha="center", va="center", fontsize=digits, color=colour)
    return figure


def overlay(image, heat):
    """Return an image with a heat map over it, in the colours of inferno: black at 0, yellow at 1.

    The image is drawn in shades of grey, so that every colour is the map's.
    """
    heat = tf.image.resize(heat[..., None], image.shape[:2]).numpy()[..., 0]
    grey = image @ np.array([0.299, 0.587, 0.114])
    return 0.5 * grey[..., None] + 0.5 * 255 * matplotlib.colormaps["inferno"](heat)[..., :3]


def sampling_points(network, layer, images):
    """Return the sampling points of a deformable convolution, for the middle position of its output.

    Returns:
        (batch, points, 2), down and right, in units of the layer's input map, whose pixel centres are at 0, 1, 2, ...;
        then the height and width of that map.
    """
    maps = keras.Model(network.input, layer.input)(images, training=False)
    points = layer.sampling_points(maps).numpy()
    return points[:, points.shape[1] // 2, points.shape[2] // 2, :, 0], tuple(maps.shape[1:3])


def points_figure(images, points):
    """Draw images with sampling points on them."""
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
    """Write the penultimate features with labels and small images as files for TensorBoard's Projector."""
    side = int(np.ceil(np.sqrt(len(seen.small))))
    sprite = np.full((side * side, SPRITE, SPRITE, 3), 255.0)
    sprite[: len(seen.small)] = seen.small
    sprite = sprite.reshape(side, side, SPRITE, SPRITE, 3).swapaxes(1, 2).reshape(side * SPRITE, side * SPRITE, 3)
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name, embedding.tensor_path, embedding.metadata_path = "features", "features.tsv", "labels.tsv"
    embedding.sprite.image_path = "sprite.png"
    embedding.sprite.single_image_dim.extend([SPRITE, SPRITE])
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        np.savetxt(folder / "features.tsv", np.stack(seen.features), fmt="%.5g", delimiter="\t")
        # One label per line: a name on two lines would shift the labels of all points after it.
        (folder / "labels.tsv").write_text("".join(f"{one_line(class_names[label])}\n" for label in seen.labels))
        (folder / "sprite.png").write_bytes(tf.io.encode_png(sprite.clip(0, 255).astype(np.uint8)).numpy())
        (folder / "projector_config.pbtxt").write_text(text_format.MessageToString(config))
