"""The recipe: everything that decides the outcome of a run, in one flat record of plain JSON values."""

import ast
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib.util
import inspect
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_type_hints

# TensorFlow is not imported before a network is built, so that help and errors appear at once.
from training.errors import UserError

# Text comes first: the command line would otherwise turn an argument "1" into a number.
JSON = str | bool | int | float | list | dict | None

# Arguments of the builders that other fields of the recipe or the data determine, and the reason.
DECIDED_ELSEWHERE = {
    "include_top": "a run trains a classifier",
    "weights": "init gives them",
    "input_tensor": "image_size gives the input",
    "input_shape": "image_size gives it",
    "pooling": "a run trains a classifier",
    "classes": "the data give it",
    "classifier_activation": "training works on logits",
    "name": "the model gives it",
    "coefficients": "--coefficients of `fit` scales the images too",
    "phi": "--phi of `fit` scales the images too",
}


MAX_SIZE = 8000  # pixels; larger images are not decoded
MAX_LAYERS = 100
MAX_ARGUMENT = 10_000  # of a builder; more layers, or a larger multiple of the channels, is a mistake


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        name: Name of the recipe; run folders begin with it.
        model: Name of the network, from keras_cnns.list_models().
        model_args: Arguments of the network's builder beyond those that every builder has, such as {"version": "1"}.
        data: digits, mnist5k, the name of a TFDS data set, folder:PATH, or synthetic; custom in runs whose data were
            passed in Python.
        data_dir: Folder of prepared TFDS data sets; null for TFDS's own default.
        image_size: Height and width of the training images, in pixels.
        batch_size: Images per step.
        epochs: Passes over the training images.
        preprocessing: Normalisation of the pixels, a mode of keras_cnns.preprocess_input; auto is the mode of the
            weights in init, or imagenet without init.
        center_crop: Side of the central square that evaluation cuts out, in units of the shorter side of the scaled
            image; auto is that of the weights in init, or 1 without init.
        interpolation: How evaluation scales images; auto is as for the weights in init, or bilinear without init.
        crop: Square crop of a training image: center, as in evaluation; area, a random part of random aspect ratio, as
            for the Inception networks; scale, from an image of random size, as for VGG and ResNet; pad, from an image
            padded by an eighth of its size, as on CIFAR.
        crop_min: Minimum size of the crop: for area the fraction of the image's area, for scale the image's shorter
            side in units of image_size.
        crop_max: Maximum size of the crop, in the same units.
        flip: Whether half of the training images are mirrored left to right.
        color_jitter: Maximum relative change of brightness, contrast and saturation.
        lighting: Standard deviation of the colour shift along the principal components of ImageNet's pixels.
        policy: A policy of augmentation; randaugment or trivialaugment.
        policy_layers: Operations per image of randaugment.
        policy_magnitude: Strength of randaugment's operations, from 0 to 30.
        random_erasing: Fraction of the training images in which a random rectangle is replaced by noise.
        mixup: Alpha of mixup, the parameter of its Beta distribution; 0 is off.
        cutmix: Alpha of CutMix; 0 is off. Together with mixup, each batch has one of the two.
        label_smoothing: Fraction of a label that is spread evenly over all classes.
        optimizer: sgd, adam or rmsprop, as in Keras.
        learning_rate: Peak learning rate.
        momentum: Momentum of sgd and rmsprop.
        nesterov: Whether sgd uses Nesterov momentum.
        epsilon: Added to the root of the squared gradients in adam, and under the root in rmsprop.
        weight_decay: Strength of weight decay; 0 is off.
        decay_mode: l2 adds weight_decay times the weight to its gradient, as the papers do; decoupled subtracts
            learning rate times weight_decay times the weight from it, as AdamW does.
        decay_norms: Whether weight decay also applies to biases and to the scales and shifts of normalizations.
        clip_norm: Maximum norm of the whole gradient; 0 does not clip.
        schedule: The learning rate after the warm-up: cosine (to zero), constant, steps (times decay_rate
            at every epoch of milestones), exponential (times decay_rate every decay_epochs), plateau (times decay_rate
            when the validation accuracy has not risen for decay_epochs).
        decay_rate: Factor of the schedules steps, exponential and plateau.
        decay_epochs: Epochs between two decays of exponential; epochs without progress before a decay of plateau.
        milestones: Epochs after which the schedule steps decays.
        warmup_epochs: Length of the linear warm-up from zero, in epochs.
        aux_weight: Weight of the loss of each auxiliary head; the main head has 1.
        ema: Decay of the moving average of weights and moving statistics, per step, that is evaluated and kept instead
            of the last weights; 0 is off.
        init: A run folder or safetensors file with the initial weights, or imagenet for the published ones of this
            network, which are downloaded once; the head is left out if it is of other classes.
        freeze: Levels of the network that are not trained: one, such as stem, a range, such as stem..stage3, or
            backbone, all but the heads. A level is the first word of a layer's name.
        backbone_rate: Learning rate of everything but the heads, in units of learning_rate.
        distribution: one device (none), all GPUs of this machine (mirrored), or several machines (multiworker); auto
            uses all that are found.
        sync_batch_norm: Whether batch statistics are those of the whole batch if several devices share it.
        seed: Seed of initial weights, order of the images, augmentation and dropout; never the split of the data.
        precision: Data type of the computation; auto is half precision on GPUs with tensor cores.
        jit: Whether to compile the step with XLA; auto does so on a single GPU.
        deterministic: Whether equal runs give equal bits; auto does so on CPUs.
        onednn: Whether TensorFlow uses the kernels of oneDNN on CPUs; auto is on, except for narrow networks with
            depthwise convolutions on small images, and follows TF_ENABLE_ONEDNN_OPTS if that is set.
    """

    name: str = "recipe"
    model: str = "GoogLeNet"
    model_args: dict[str, JSON] = field(default_factory=dict)
    data: str = "digits"
    data_dir: str | None = None
    image_size: int = 224
    batch_size: int = 32
    epochs: int = 90
    preprocessing: Literal["auto", "imagenet", "tf", "caffe", "lite"] = "auto"
    center_crop: float | Literal["auto"] = "auto"
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    crop: Literal["center", "area", "scale", "pad"] = "center"
    crop_min: float = 0.08
    crop_max: float = 1.0
    flip: bool = False
    color_jitter: float = 0.0
    lighting: float = 0.0
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    policy_layers: int = 2
    policy_magnitude: float = 9.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    decay_mode: Literal["l2", "decoupled"] = "l2"
    decay_norms: bool = False
    clip_norm: float = 0.0
    schedule: Literal["cosine", "constant", "steps", "exponential", "plateau"] = "cosine"
    decay_rate: float = 0.1
    decay_epochs: float = 10.0
    milestones: list[float] = field(default_factory=list)
    warmup_epochs: float = 0.0
    aux_weight: float = 0.3
    ema: float = 0.0
    init: str | None = None
    freeze: str | None = None
    backbone_rate: float = 1.0
    distribution: Literal["auto", "none", "mirrored", "multiworker"] = "auto"
    sync_batch_norm: bool = True
    seed: int = 0
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    jit: bool | Literal["auto"] = "auto"
    deterministic: bool | Literal["auto"] = "auto"
    onednn: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self):
        for name, validate in validators().items():
            object.__setattr__(self, name, validate(getattr(self, name)))
        object.__setattr__(self, "model", known_network(self.model))
        check = self._check
        check("image_size", self.image_size >= 1, "must be at least 1 pixel")
        check("image_size", self.image_size <= MAX_SIZE, f"must be at most {MAX_SIZE} pixels")
        check("batch_size", self.batch_size >= 1, "must be at least 1 image")
        check("epochs", self.epochs >= 1, "must be at least 1")
        check("crop_min", 0 < self.crop_min <= self.crop_max, f"must be above 0 and at most crop_max={self.crop_max}")
        check("crop_max", self.crop != "area" or self.crop_max <= 1, "must be at most 1, the whole image")
        check("crop_min", self.crop != "scale" or self.crop_min >= 1, "must be at least 1: the square is cut out of it")
        check("center_crop", self.center_crop == "auto" or 0 < self.center_crop <= 1, "must be above 0 and at most 1")
        check("policy_layers", 1 <= self.policy_layers <= MAX_LAYERS, f"must be from 1 to {MAX_LAYERS}")
        check("policy_magnitude", 0 <= self.policy_magnitude <= 30, "must be from 0 to 30")
        for name in ("color_jitter", "random_erasing"):
            check(name, 0 <= getattr(self, name) <= 1, "must be from 0 to 1")
        for name in ("label_smoothing", "ema", "momentum"):
            check(name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        for name in ("learning_rate", "epsilon", "decay_rate", "decay_epochs"):
            check(name, getattr(self, name) > 0, "must be above 0")
        for name in ("lighting", "mixup", "cutmix", "weight_decay", "clip_norm", "aux_weight", "backbone_rate"):
            check(name, getattr(self, name) >= 0, "must be at least 0")
        check("warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, "must be from 0 to the number of epochs")
        check("milestones", self.milestones == sorted(self.milestones), "must be in increasing order")
        check("schedule", self.schedule != "steps" or self.milestones, "needs --milestones, the epochs of the steps")
        check(
            "schedule", self.schedule != "plateau" or not self.warmup_epochs, "has no warm-up; pass --warmup_epochs 0"
        )
        check("decay_rate", self.schedule != "plateau" or self.decay_rate < 1, "must be below 1 for plateau")
        check("seed", 0 <= self.seed < 2**31, "must be from 0 to 2147483647")
        check("name", self.name.replace("_", "").replace("-", "").isalnum(), "must be letters, digits, _ and -")
        check("name", len(self.name) <= 100, "must have at most 100 letters")

    def _check(self, name, fits, must):
        if not fits:
            raise UserError(f"{name}={getattr(self, name)!r}: it {must}.")

    def check_model_args(self):
        """Raise a UserError if `model_args` are not valid for the network."""
        import keras_cnns

        builder = keras_cnns.builder(self.model)
        own = {
            name: parameter.default
            for name, parameter in inspect.signature(builder).parameters.items()
            if name not in DECIDED_ELSEWHERE
        }
        for argument, value in self.model_args.items():
            if argument in DECIDED_ELSEWHERE:
                raise UserError(f"model_args has {argument}, but {DECIDED_ELSEWHERE[argument]}. Leave it out.")
            if argument not in own:
                raise UserError(
                    f"model_args={self.model_args!r}: it has {argument}; {builder.__name__} takes "
                    f"{', '.join(own) or 'none'}. To leave out one of the recipe's: "
                    f"--model_args '{{\"{argument}\": null}}'."
                )
            check_argument(argument, value, own[argument])

    def to_json(self):
        """Return the recipe as JSON text, the same text for equal recipes."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text, where):
        """Return the recipe in the JSON text of `to_json`; `where` names the file in error messages."""
        try:
            values = json.loads(text)
            return cls(**values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{where} is not a recipe: {error}. Write it with `python -m training fit`.") from None

    @property
    def resizing(self):
        """How evaluation brings images to their size, the arguments of `pixels.resize`: size, crop, interpolation."""
        # In runs of earlier versions these are not decided: they were 1 and bilinear.
        crop = 1.0 if self.center_crop == "auto" else self.center_crop
        return self.image_size, crop, "bilinear" if self.interpolation == "auto" else self.interpolation

    @property
    def digest(self):
        """Eight hexadecimal digits that differ where recipes differ."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:8]

    @property
    def run_name(self):
        """Default name of the run folder."""
        return f"{self.name}-{self.digest}"

    def build(self, classes, *, for_inference=False):
        """Build the network, whose output is logits.

        Args:
            classes: Number of classes.
            for_inference: Whether to build it for inference: without auxiliary heads, and for images of any size if the
                network allows it.

        Raises:
            UserError: The network does not exist or cannot be built.
        """
        import keras_cnns

        self.check_model_args()
        builder, arguments = keras_cnns.builder(self.model), dict(self.model_args)
        if for_inference:
            arguments.pop("aux_heads", None)

        def at(size):
            return builder(**arguments, input_shape=(size, size, 3), classes=classes, classifier_activation=None)

        try:
            if for_inference:
                with contextlib.suppress(keras_cnns.FixedSizeError):
                    return at(None)
            return at(self.image_size)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{self.model} with model_args={self.model_args!r} cannot be built: {error}") from error


@functools.cache
def networks():
    """Return the names in `keras_cnns.list_models()`, read from the source: importing it imports Keras."""
    source = Path(importlib.util.find_spec("keras_cnns").origin).with_name("catalogue.py").read_text()
    (builders,) = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "BUILDERS"
    )
    return [builder.id for builder in builders.elts]


def known_network(name):
    """Return a network's name as keras_cnns spells it; raise a UserError if there is no such network."""
    spelled = {known.lower(): known for known in networks()}
    if name.lower() not in spelled:
        near = [spelled[word] for word in difflib.get_close_matches(name.lower(), spelled)]
        hint = f"Did you mean {', '.join(near)}?" if near else f"There are {', '.join(spelled.values())}."
        raise UserError(f"model={name!r}: there is no such network. {hint}")
    return spelled[name.lower()]


@functools.cache
def validators():
    """Return {field: function (value) -> value of the field's type}; it raises a UserError for other values."""
    import pydantic

    rules = pydantic.ConfigDict(strict=True, allow_inf_nan=False)

    def validator(name, hint):
        adapter = pydantic.TypeAdapter(hint, config=rules)

        def validate(value):
            try:
                return adapter.validate_python(value)
            except pydantic.ValidationError as error:
                reasons = dict.fromkeys(found["msg"].replace("Input should be", "be") for found in error.errors())
                raise UserError(f"{name}={value!r}: it must {' or '.join(reasons)}.") from None

        return validate

    return {name: validator(name, hint) for name, hint in get_type_hints(Recipe).items()}


def check_argument(name, value, default):
    """Raise a UserError unless the value of a builder's argument has the type of the argument's default."""
    kinds = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}
    kind = type(default)
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    else:
        fits = kind not in kinds or type(value) is kind
    if fits and kind in (int, float) and not 0 <= value <= MAX_ARGUMENT:
        raise UserError(f"model_args has {name}={value!r}: it must be from 0 to {MAX_ARGUMENT}.")
    if not fits:
        raise UserError(f"model_args has {name}={value!r}: it must be {kinds[kind]}, such as {json.dumps(default)}.")
