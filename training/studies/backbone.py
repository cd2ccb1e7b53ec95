"""Trained classifiers are backbones of other networks, and their features serve other target tasks (L22, L23).

Sources: Girshick et al. 2014 and Long et al. 2015 for detection and segmentation on AlexNet and VGG; Yosinski et al.
2014, "How transferable are features in deep neural networks?": transferred features are better than random ones, even
from a distant task. The task here: a digit anywhere on a canvas of 48 pixels; a network gives the ink's mask and the
digit's centre. Its backbone is a ResNet for CIFAR, trained to classify the digits, whose weights are fixed; the same
with random weights, fixed; or trained from scratch with the rest; each from few and from many images.
"""

import itertools
from dataclasses import replace

import keras
import numpy as np

import keras_cnns
from training.inference import trained_network
from training.recipes import DIGITS
from training.studies import drawing
from training.studies.frame import Claim, Row, values
from training.studies.probing import arrays

CANVAS = 48  # pixels
OVERLAP, DISTANCE = "intersection over union of the ink, %", "distance of the centre, pixels"
MAPS = "feature maps at the strides 4, 8, 16 and 32, {}"
BACKBONES = ("trained, fixed", "random, fixed", "from scratch")
FEATURES = f"{OVERLAP}, trained minus random backbone, many images"
CENTRE = f"{DISTANCE}, trained minus random backbone, many images"
FEW = f"{OVERLAP}, trained backbone minus from scratch, few images"
SOURCE = "Yosinski et al. 2014, section 4"

CLAIMS = (
    Claim(
        "L22",
        "VGG has a map for each level of a feature pyramid.",
        MAPS.format("VGG16"),
        "Lin et al. 2017, section 3",
        4,
        4,
    ),
    Claim(
        "L22",
        "ResNet has a map for each level of a feature pyramid.",
        MAPS.format("ResNet50"),
        "Lin et al. 2017, section 3",
        4,
        4,
    ),
    Claim("L23", "The features of a classifier find the ink better than random ones.", FEATURES, SOURCE, least=0),
    Claim("L23", "They find the place better than random ones.", CENTRE, SOURCE, greatest=0),
    Claim(
        "L23",
        "From few images they do better than training from scratch.",
        FEW,
        "Girshick et al. 2014, section 3.3",
        least=0,
    ),
)

READING = """
How well the ink of a digit (left, more is better) and its centre (right, less is better) are found, from few and many
images, with three backbones; the fixed ones have the moving statistics of the canvases. On this task the features of a
network that was trained to classify digits are not better than random ones, and training from scratch is best, from 50
images too. The ink is bright and the ground is dark, which random features show as well, and a classifier of centred
digits has learned to ignore where a digit is. With the statistics of the digits, before they were taken from the
canvases, the trained backbone was worse.
"""


def recipe_of(seed, lab):
    """Return the recipe of the backbone as a classifier."""
    recipe = replace(DIGITS, name="backbone", model="ResNetCIFAR", model_args={"depth": 14}, image_size=16, seed=seed)
    return lab.shortened(replace(recipe, model_args={"depth": 8, "width": 0.25}) if lab.quick else recipe)


def canvases(recipe, split, count, seed):
    """Return images (count, 48, 48, 3), RGB 0..255, masks (count, 48, 48, 1) of 0 and 1, and centres (count, 2) from 0
    to 1, each with a digit at a random place on a noisy ground."""
    digits, _ = arrays(recipe, split)
    random = np.random.RandomState(seed)
    images = random.uniform(0, 60, (count, CANVAS, CANVAS, 3)).astype(np.float32)
    masks, centres = np.zeros((count, CANVAS, CANVAS, 1), np.float32), np.zeros((count, 2), np.float32)
    for place in range(count):
        digit = digits[random.randint(len(digits))]
        size = digit.shape[0]
        top, left = random.randint(0, CANVAS - size, 2)
        window = np.s_[place, top : top + size, left : left + size]
        images[window] = np.maximum(images[window], digit)
        masks[window] = digit[..., :1] > 127
        centres[place] = (top + size / 2) / CANVAS, (left + size / 2) / CANVAS
    return images, masks, centres


def network(classifier, size, trainable):
    """Return the network for mask and centre on a classifier's backbone.

    Args:
        classifier: A network for images of any size.
        size: Height and width of the images.
        trainable: Whether the backbone is trained.
    """
    backbone = keras_cnns.features(classifier, strides=(1, 2, 4))
    backbone.trainable = trainable
    image = keras.Input((size, size, 3))
    finest, *coarser = backbone(keras_cnns.preprocess_input(image))
    total = keras.layers.Conv2D(16, 1, name="mask1")(finest)
    for factor, maps in zip((2, 4), coarser, strict=True):
        maps = keras.layers.Conv2D(16, 1, name=f"mask{factor}")(maps)
        total = keras.layers.Add()([total, keras.layers.UpSampling2D(factor, interpolation="bilinear")(maps)])
    mask = keras.layers.Conv2D(1, 3, padding="same", name="mask")(keras.layers.ReLU()(total))
    pooled = keras.layers.AveragePooling2D(4)(coarser[-1])
    centre = keras.layers.Dense(2, activation="sigmoid", name="centre")(keras.layers.Flatten()(pooled))
    return keras.Model(image, {"mask": mask, "centre": centre})


def measure(lab):
    """Yield both measures by backbone and number of images, and what the claims are about."""
    for name in ("VGG16", "ResNet50"):
        with keras.StatelessScope(initialize_variables=False):
            model = keras_cnns.builder(name)(include_top=False, input_shape=(64, 64, 3))
            yield Row(MAPS.format(name), name, "", None, len(keras_cnns.features(model).outputs))
    sizes = {"few": 20, "many": 40} if lab.quick else {"few": 50, "many": 1000}
    runs = lab.train_all([recipe_of(seed, lab) for seed in lab.seeds])
    keys = list(itertools.product(lab.seeds, sizes, BACKBONES))
    jobs = [(runs[lab.seeds.index(seed)], seed, sizes[size], kind, lab.quick) for seed, size, kind in keys]
    found = dict(zip(keys, lab.map(on_canvases, jobs), strict=True))
    for (seed, size, kind), measured in found.items():
        for quantity, value in zip((OVERLAP, DISTANCE), measured, strict=True):
            yield Row(quantity, kind, size, seed, value)
    for seed in lab.seeds:
        trained, guessed, scratch = ([found[seed, size, kind] for size in sizes] for kind in BACKBONES)
        yield Row(FEATURES, "", "", seed, trained[1][0] - guessed[1][0])
        yield Row(CENTRE, "", "", seed, trained[1][1] - guessed[1][1])
        yield Row(FEW, "", "", seed, trained[0][0] - scratch[0][0])


def on_canvases(run, seed, count, kind, quick):
    """Return what `quality` does of a network that is trained on a number of canvases, with a backbone of a kind.

    Args:
        run: The run of the classifier.
        seed: The seed.
        count: Number of canvases.
        kind: One of BACKBONES.
        quick: See Lab.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    images, *truth = canvases(run.recipe, "train", count, seed)
    classifier = trained_network(run) if kind == "trained, fixed" else run.recipe.build(10, for_inference=True)
    if kind != "from scratch":  # both with the moving statistics of the canvases
        for _ in range(2 if quick else 20):
            classifier(keras_cnns.preprocess_input(images[:32]), training=True)
    model = network(classifier, CANVAS, trainable=kind == "from scratch")
    train(model, (images, *truth), seed, steps=2 if quick else 100)
    return quality(model, *canvases(run.recipe, "test", 20 if quick else 200, 1000 + seed))


def train(model, data, seed, steps, batch_size=16):
    """Train a network for a number of steps."""
    images, masks, centres = data
    model.compile(
        keras.optimizers.Adam(2e-3),
        loss={"mask": keras.losses.BinaryCrossentropy(from_logits=True), "centre": "mean_squared_error"},
        loss_weights={"mask": 1.0, "centre": 10.0},
        jit_compile=False,  # Keras would compile with XLA, which is slower on CPUs
    )
    order = np.random.RandomState(seed)
    for _ in range(steps):
        chosen = order.randint(0, len(images), batch_size)
        model.train_on_batch(images[chosen], {"mask": masks[chosen], "centre": centres[chosen]})


def quality(model, images, masks, centres):
    """Return the intersection over union in % and the mean distance of the centre in pixels."""
    outputs = model.predict(images, batch_size=50, verbose=0)
    ink, truth = outputs["mask"] > 0, masks > 0
    union = np.logical_or(ink, truth).sum()
    overlap = 100 * np.logical_and(ink, truth).sum() / max(union, 1)
    return float(overlap), float(CANVAS * np.linalg.norm(outputs["centre"] - centres, axis=1).mean())


def draw(rows):
    """Draw both measures as bars by number of images."""
    picture, (plots,) = drawing.figure("A digit on a canvas of 48 pixels: its ink and its centre", columns=2)
    colours = dict(zip(BACKBONES, ("#0072B2", "#999999", "#E69F00"), strict=True))
    hatches = dict(zip(BACKBONES, ("", "..", "//"), strict=True))
    for axes, quantity in zip(plots, (OVERLAP, DISTANCE), strict=True):
        for place, size in enumerate(("few", "many")):
            for shift, kind in zip((-0.27, 0, 0.27), BACKBONES, strict=True):
                drawing.bar(
                    axes,
                    place + shift,
                    values(rows, quantity, kind)[kind, size],
                    0.25,
                    color=colours[kind],
                    hatch=hatches[kind],
                    edgecolor="black",
                    label=kind if place == 0 else None,
                )
        axes.set_xticks((0, 1), ("few images (50)", "many images (1,000)"))
        axes.set(ylabel=quantity)
        axes.legend(title="backbone", fontsize=9)
    return picture
