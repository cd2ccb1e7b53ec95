"""The recipe: everything that decides the outcome of a run, in one flat record of plain JSON values."""

import contextlib
import dataclasses
import hashlib
import inspect
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import tensorflow as tf

import keras_cnns
from training.errors import UserError

# Arguments of every builder that the recipe's other fields and the data decide.
DECIDED_ELSEWHERE = {
    "include_top": "a run trains a classifier",
    "weights": "a run starts at random",
    "input_tensor": "image_size gives the input",
    "input_shape": "image_size gives it",
    "pooling": "a run trains a classifier",
    "classes": "the data give it",
    "classifier_activation": "training works on logits",
    "name": "the model gives it",
}


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        name: Name of the recipe; run folders begin with it.
        model: Name of the network, from keras_cnns.list_models().
        model_args: Arguments of the network's builder beyond those that every builder has, as {"version": "1"}.
        data: digits, the name of a TFDS data set, folder:PATH, or synthetic.
        data_dir: Folder of prepared TFDS data sets; null for TFDS's own default.
        image_size: Height and width of the training images, in pixels.
        batch_size: Images per step.
        epochs: Passes over the training images.
        optimizer: sgd, adam or rmsprop, as Keras has them.
        learning_rate: Peak learning rate.
        momentum: Momentum of sgd and rmsprop.
        schedule: How the learning rate goes on after the warm-up; cosine (to zero) or constant.
        warmup_epochs: Length of the linear warm-up from zero, in epochs.
        aux_weight: Weight of the loss of each auxiliary head; the main head has 1.
        seed: Decides initial weights, order of the images and dropout; never the split of the data.
        precision: Data type of the computation; auto takes half precision on GPUs that are built for it.
        jit: Whether to compile the step with XLA; auto does on GPUs.
        deterministic: Whether equal runs give equal bits; auto does on CPUs.
    """

    name: str = "recipe"
    model: str = "GoogLeNet"
    model_args: dict[str, Any] = field(default_factory=dict)
    data: str = "digits"
    data_dir: str | None = None
    image_size: int = 224
    batch_size: int = 32
    epochs: int = 90
    optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    aux_weight: float = 0.3
    seed: int = 0
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    jit: bool | Literal["auto"] = "auto"
    deterministic: bool | Literal["auto"] = "auto"

    def __post_init__(self):
        check = self._check
        check("image_size", self.image_size >= 1, "must be at least 1 pixel")
        check("batch_size", self.batch_size >= 1, "must be at least 1 image")
        check("epochs", self.epochs >= 1, "must be at least 1")
        check("learning_rate", self.learning_rate > 0, "must be above 0")
        check("momentum", 0 <= self.momentum < 1, "must be at least 0 and below 1")
        check("warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, "must be from 0 to the number of epochs")
        check("aux_weight", self.aux_weight >= 0, "must be at least 0")
        check("seed", 0 <= self.seed < 2**31, "must be from 0 to 2147483647")
        check("name", self.name.replace("_", "").replace("-", "").isalnum(), "must be letters, digits, _ and -")
        try:
            builder = keras_cnns.builder(self.model)
        except ValueError as error:
            raise UserError(f"model={self.model!r}: {error}") from None
        object.__setattr__(self, "model", builder.__name__)
        own = [name for name in inspect.signature(builder).parameters if name not in DECIDED_ELSEWHERE]
        for argument in self.model_args:
            if argument in DECIDED_ELSEWHERE:
                raise UserError(f"model_args has {argument}, but {DECIDED_ELSEWHERE[argument]}. Leave it out.")
            check("model_args", argument in own, f"has {argument}; {self.model} takes {', '.join(own) or 'none'}")

    def _check(self, name, fits, must):
        if not fits:
            raise UserError(f"{name}={getattr(self, name)!r}: it {must}.")

    def resolved(self):
        """The recipe with every "auto" decided for this machine."""
        gpus = tf.config.list_physical_devices("GPU")
        precision = self.precision
        if precision == "auto":
            capability = min(
                (tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus),
                default=(0, 0),
            )
            precision = (
                "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"
            )
        return dataclasses.replace(
            self,
            precision=precision,
            jit=bool(gpus) if self.jit == "auto" else self.jit,
            deterministic=not gpus if self.deterministic == "auto" else self.deterministic,
        )

    def to_json(self):
        """The recipe as JSON text, the same text for equal recipes."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text, where):
        """Reads what `to_json` wrote; `where` names the file in errors."""
        try:
            values = json.loads(text)
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise UserError(f"{where} is not a recipe: {error}. Write it with `python -m training fit`.") from None

    @property
    def digest(self):
        """Eight hexadecimal digits that differ where recipes differ."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:8]

    def build(self, classes, *, for_use=False):
        """Builds the network with logits as its output.

        Args:
            classes: Number of classes.
            for_use: Whether to leave out what exists for training only, the auxiliary heads, and let the network take
                images of any size, where it can; of the recipe's size where it cannot.
        """
        builder, arguments = keras_cnns.builder(self.model), dict(self.model_args)
        if for_use:
            arguments.pop("aux_heads", None)

        def at(size):
            return builder(**arguments, input_shape=(size, size, 3), classes=classes, classifier_activation=None)

        try:
            if for_use:
                with contextlib.suppress(keras_cnns.FixedSizeError):
                    return at(None)
            return at(self.image_size)
        except ValueError as error:
            raise UserError(str(error)) from error


def prepare_machine(recipe):
    """Sets what holds for the whole process: seeds, determinism and precision. The recipe must be resolved."""
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(recipe.precision)
