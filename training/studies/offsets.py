"""A deformable convolution looks at irregular points, moved by a field of offsets (L24).

Sources: Dai et al. 2017, "Deformable Convolutional Networks", Figures 1 and 5 and Table 3: the points follow the
object, and their distance from the centre grows with its size; felixlaumon, "deform-conv" (2017): a plain network
trained on upright digits, in which only offsets are trained on scaled digits, gains accuracy on those (57.0 to 92.6 %
on MNIST).

A network of four layers, its last three convolutions deformable with offsets of zero, is trained on MNIST's digits as a
plain network. Then, on digits scaled by 0.4 to 1.6, only the offsets are trained; for comparison only the head, or all
weights of the plain network.
"""

import statistics

import keras
import numpy as np
import scipy.ndimage

import keras_cnns
from training.recipe import Recipe
from training.studies import drawing
from training.studies.frame import Claim, Row, by_x, values
from training.studies.probing import arrays

ACCURACY = "test accuracy on scaled digits, %"
UPRIGHT = "test accuracy on upright digits, %"
GAIN = "accuracy on scaled digits with trained offsets minus without, points"
DISTANCE = "mean distance of the points from their centre, pixels of the map, layer {}"
GROWTH = "distance of the last layer's points in large digits over that in small ones"
PLACE, MOVE, PIXEL = "position, {}", "offset of the points' centre, {}", "pixel"
SOURCE = "Dai et al. 2017"
SIZES = {"small": 0.5, "as trained": 1.0, "large": 1.5}
TRAINED = ("nothing", "offsets", "head", "all, plain")

CLAIMS = (
    Claim(
        "L24",
        "Offsets alone adapt a network to scaled digits.",
        GAIN,
        "felixlaumon, deform-conv, 2017: 57.0 to 92.6 %",
        least=10,
    ),
    Claim("L24", "The points spread further in larger objects.", GROWTH, f"{SOURCE}, Table 3", least=1.02),
)

READING = """
Left: a large digit, and at each position of the last deformable layer the mean offset of its nine points; the arrows
lead to the ink. Middle: the points spread with the size of the digit, in the last layer until it no longer fits. Right:
a network that was trained on upright digits, then on scaled ones, but only in the part that is named. Offsets alone,
with all kernels as they were, bring as much as training all weights of the plain network, and cost nothing on upright
digits.
"""


def network(deformable=True):
    """Return the network of four convolutions; its input is pixels from 0 to 1, its output logits."""
    image = x = keras.Input((28, 28, 1), name="image")
    for number, (filters, strides) in enumerate(((16, 1), (32, 2), (64, 1), (64, 2)), start=1):
        if number > 1 and deformable:
            layer = keras_cnns.layers.DeformableConv2D(
                filters, 3, strides, "same", use_bias=False, name=f"conv{number}"
            )
        else:
            layer = keras.layers.Conv2D(filters, 3, strides, "same", use_bias=False, name=f"conv{number}")
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"bn{number}")(layer(x))
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="head")(x))


def scaled(images, factors):
    """Return images (count, 28, 28, 1), each scaled by its factor around the centre."""
    result = np.empty_like(images)
    for place, (image, factor) in enumerate(zip(images, factors, strict=True)):
        centre = 13.5 - 13.5 / factor
        result[place, ..., 0] = scipy.ndimage.affine_transform(image[..., 0], np.eye(2) / factor, centre, order=1)
    return result


def data(quick):
    """Return training and test images (count, 28, 28, 1) from 0 to 1, with labels."""
    recipe = Recipe(data="digits" if quick else "mnist5k", image_size=28, batch_size=100)
    most = 200 if quick else None
    parts = [arrays(recipe, split, most) for split in ("train", "test")]
    return [(images[..., :1] / 255, labels) for images, labels in parts]


def train(model, images, labels, epochs, seed):
    """Train the trainable weights of a model with Adam."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Keras would compile with XLA, which is slower on CPUs.
    model.compile(keras.optimizers.Adam(1e-3), loss=loss, jit_compile=False)
    keras.utils.set_random_seed(seed)  # the order of the images
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)


def accuracy(model, images, labels):
    """Return the accuracy in %."""
    logits = model.predict(images, batch_size=200, verbose=0)
    return 100 * float((logits.argmax(axis=-1) == labels).mean())


def copy_weights(source, target):
    """Copy the weights of equal names; offsets that a network lacks stay at zero."""
    for layer in target.layers:
        known = {variable.name: variable for variable in source.get_layer(layer.name).weights}
        for variable in layer.weights:
            if variable.name in known:
                variable.assign(known[variable.name])


def offsets_alone(model):
    """Train nothing but the offsets; batch normalization keeps its statistics."""
    for layer in model.layers:
        layer.trainable = isinstance(layer, keras_cnns.layers.DeformableConv2D)
        if layer.trainable:
            layer.kernel.trainable = False


def head_alone(model):
    """Train nothing but the head."""
    for layer in model.layers:
        layer.trainable = layer.name == "head"


def measure(lab):
    """Return the accuracies, the distances and an offset field, and what the claims are about."""
    jobs = [(seed, lab.quick, seed == lab.seeds[0]) for seed in lab.seeds]
    return lab.rows(rows_of, jobs)


def rows_of(seed, quick, with_field):
    """Yield the rows of one seed."""
    (images, labels), (test_images, test_labels) = data(quick)
    epochs = 1 if quick else 3
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    random = np.random.RandomState(seed)
    large = scaled(images, random.uniform(0.4, 1.6, len(images)))
    test_large = scaled(test_images, random.uniform(0.4, 1.6, len(test_images)))
    plain = network(deformable=False)
    train(plain, images, labels, 2 * epochs, seed)
    found = {"nothing": (accuracy(plain, test_images, test_labels), accuracy(plain, test_large, test_labels))}
    for name, prepare in (("offsets", offsets_alone), ("head", head_alone), ("all, plain", None)):
        model = network(deformable=name == "offsets")
        copy_weights(plain, model)
        if prepare:
            prepare(model)
        train(model, large, labels, epochs, seed)
        found[name] = accuracy(model, test_images, test_labels), accuracy(model, test_large, test_labels)
        if name == "offsets":
            deformed = model
    for name, (upright, on_scaled) in found.items():
        yield Row(UPRIGHT, name, "", seed, upright)
        yield Row(ACCURACY, name, "", seed, on_scaled)
    yield Row(GAIN, "", "", seed, found["offsets"][1] - found["nothing"][1])
    yield from distances(deformed, test_images[:200], seed)
    if with_field:
        yield from field(deformed, scaled(test_images[:1], [1.3]), seed)


def points(model, images):
    """Return {layer: the offsets (count, height, width, points, 2) of its points from their centre}, in pixels of the
    layer's map, averaged over nothing."""
    layers = [layer for layer in model.layers if isinstance(layer, keras_cnns.layers.DeformableConv2D)]
    maps = keras.Model(model.input, [layer.input for layer in layers])(images, training=False)
    grid = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1), indexing="ij"), axis=-1).reshape(9, 2)
    moved = {}
    for layer, values_ in zip(layers, maps, strict=True):
        offsets = np.asarray(layer.offsets_and_mask(values_)[0])
        moved[layer.name] = grid + offsets.reshape(*offsets.shape[:3], 9, 2)
    return moved


def distances(model, images, seed):
    """Yield the mean distance of the points from their centre by layer and size of the digits, on the ink."""
    means = {}
    for size, factor in SIZES.items():
        changed = scaled(images, np.full(len(images), factor))
        for name, moved in points(model, changed).items():
            height = moved.shape[1]
            steps = 28 // height
            ink = changed.reshape(len(images), height, steps, height, steps).mean((2, 4)) > 0.2
            spread = np.linalg.norm(moved - moved.mean(axis=3, keepdims=True), axis=-1)[ink]
            means[name, size] = float(spread.mean()) if ink.any() else 0.0
            yield Row(DISTANCE.format(name[-1]), size, factor, seed, means[name, size])
    last = max(name for name, _ in means)
    yield Row(GROWTH, "", "", seed, means[last, "large"] / means[last, "small"])


def field(model, images, seed):
    """Yield a digit's pixels, and for each position of the last layer the centre and the offset of its points."""
    for line, pixels in enumerate(images[0, ..., 0]):
        for column, value in enumerate(pixels):
            yield Row(PIXEL, str(line), column, seed, float(value))
    moved = list(points(model, images).values())[-1][0]
    height = moved.shape[0]
    steps = 28 // height
    for line in range(height):
        for column in range(height):
            place = f"{line} {column}"
            for axis, centre, offset in zip(
                ("down", "right"), (line, column), moved[line, column].mean(axis=0), strict=True
            ):
                yield Row(PLACE.format(axis), place, "", seed, steps * (centre + 0.5) - 0.5)
                yield Row(MOVE.format(axis), place, "", seed, steps * float(offset))


def draw(rows):
    """Draw the field of offsets as arrows, the distances by size, and the accuracies."""
    picture, ((arrows, spread, bars),) = drawing.figure("Deformable convolutions on scaled digits", columns=3)
    pixels = {(int(line), int(x)): found[0] for (line, x), found in values(rows, PIXEL).items()}
    image = np.array([[pixels[line, column] for column in range(28)] for line in range(28)])
    arrows.imshow(image, cmap="Greys", vmax=2)
    at = {axis: np.array([v[0] for v in values(rows, PLACE.format(axis)).values()]) for axis in ("down", "right")}
    by = {axis: np.array([v[0] for v in values(rows, MOVE.format(axis)).values()]) for axis in ("down", "right")}
    arrows.quiver(
        at["right"], at["down"], by["right"], by["down"], angles="xy", scale_units="xy", scale=1, color="#D55E00"
    )
    arrows.set(title="mean offset of the nine points, last layer", xlabel="pixel", ylabel="pixel")
    arrows.grid(False)
    layers = sorted({row.quantity[-1] for row in rows if row.quantity.startswith(DISTANCE[:-2])})
    for layer, family in zip(layers, ("plain", "residual", "EfficientNet"), strict=False):
        found = by_x(rows, DISTANCE.format(layer))
        drawing.curve(spread, found, **drawing.style(family, label=f"layer {layer}"))
    spread.axhline(statistics.mean([0, 1, 1, 1, 1, *[2**0.5] * 4]), color="grey", linewidth=1, label="without offsets")
    spread.set(xlabel="scale of the digit", ylabel="mean distance of the points, pixels of the map")
    spread.legend(fontsize=9)
    for shift, quantity, hatch in ((-0.2, UPRIGHT, "//"), (0.2, ACCURACY, "")):
        for place, name in enumerate(TRAINED):
            found = values(rows, quantity, name)[name, ""]
            label = quantity.split("on ")[1].removesuffix(", %") if place == 0 else None
            style = {"hatch": hatch, "color": "#56B4E9", "edgecolor": "black", "label": label}
            drawing.bar(bars, place + shift, found, 0.4, **style)
    bars.set_xticks(range(len(TRAINED)), TRAINED)
    bars.set(xlabel="trained on scaled digits", ylabel="test accuracy, %", ylim=(0, 100))
    bars.legend(fontsize=9, loc="lower right")
    return picture
