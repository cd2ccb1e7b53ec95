"""Probes of a network on a fixed batch: gradients by depth, and weights, gradients and activations by stage.

In a deep plain network without normalization the gradient vanishes on its way to the first layers; residual connections
and auxiliary heads carry it there.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from keras_cnns.layers import DeformableConv2D
from training.dashboards.log import Board, is_due, new_figure
from training.step import losses_by_head, outputs_by_head, total_loss


class Probes(Board):
    """Write the norm of the gradient by depth each epoch, as a heat map, and histograms by stage at an interval.

    The gradient is that of training, with batch statistics and dropout; what the forward pass changes (moving
    statistics, seeds) is restored.

    Args:
        log: The log.
        images: The fixed batch, RGB 0..255 (batch, height, width, 3).
        targets: Its targets (batch, classes), which sum to one.
        preprocessing: A mode of keras_cnns.preprocess_input.
        aux_weight: Weight of the auxiliary heads' loss.
        every: Epochs between two histograms; 0 turns the probes off.
        from_logits: Whether the network gives logits, not probabilities.
    """

    def __init__(self, log, images, targets, preprocessing="imagenet", *, aux_weight=0.3, every=5, from_logits=True):
        super().__init__(log)
        self.images = keras_cnns.preprocess_input(images, preprocessing)
        self.targets, self.aux_weight, self.every, self.from_logits = targets, aux_weight, every, from_logits
        self.epochs, self.norms = [], []  # numbers of epochs, and the norms by depth after them

    def state(self):
        return {"epochs": self.epochs, "norms": self.norms}

    def load_state(self, state):
        self.epochs, self.norms = state["epochs"], state["norms"]

    def on_train_begin(self, logs=None):
        self.gradients = gradients_of(self.model, self.aux_weight, self.from_logits)
        self.kernels = [
            place
            for place, variable in enumerate(self.model.trainable_variables)
            if variable.path.endswith("/kernel") and not keras_cnns.is_auxiliary(variable.path)
        ]
        self.names = [self.model.trainable_variables[place].path.rpartition("/")[0] for place in self.kernels]
        self.inside = None

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0 and not self.epochs:
            self.look(0)

    def on_epoch_end(self, epoch, logs=None):
        self.look(epoch + 1)

    def on_train_end(self, logs=None):
        if self.norms and self.norms[-1] and not is_due(self.epochs[-1], self.every):
            self.log.figure("gradient_by_depth", heat_map(self.epochs, self.norms, self.names), self.epochs[-1])
        super().on_train_end(logs)

    def look(self, epochs):
        """Write the probes after a number of epochs."""
        if not self.every:
            return
        with restored(self.model.non_trainable_variables):  # moving statistics, and the seeds of random layers
            gradients = [gradient.numpy() for gradient in self.gradients(self.images, self.targets)]
        self.epochs.append(epochs)
        self.norms.append([float(np.linalg.norm(gradients[place])) for place in self.kernels])
        if self.norms[-1]:
            first, last = self.norms[-1][0], self.norms[-1][-1]
            self.log.scalars(epochs, {"gradient_by_depth/first": first, "gradient_by_depth/last": last})
        if is_due(epochs, self.every):
            if self.norms[-1]:
                self.log.figure("gradient_by_depth", heat_map(self.epochs, self.norms, self.names), epochs)
            self.write_histograms(epochs, gradients)
        self.log.flush()

    def write_histograms(self, epochs, gradients):
        variables = self.model.trainable_variables
        histograms = by_stage("weights", ((v.path, keras.ops.convert_to_numpy(v)) for v in variables))
        paths = [variable.path for variable in variables]
        histograms |= by_stage("gradients", zip(paths, gradients, strict=True))
        if self.inside is None:
            self.inside = activations_of(self.model)
        stages, gates, offsets = self.inside(self.images)
        histograms |= {f"activations/{stage}": value for stage, value in stages.items()}
        histograms |= by_stage("gates", ((name, value.numpy()) for name, value in gates.items()))
        histograms |= {f"offsets/{name}": value for name, value in offsets.items()}
        for tag, values in histograms.items():
            self.log.histogram(tag, np.asarray(values), epochs)


@contextlib.contextmanager
def restored(variables):
    """Give back their values to variables at the end."""
    before = [(variable, keras.ops.convert_to_numpy(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def gradients_of(model, aux_weight, from_logits=True):
    """Return a function (images, targets) -> gradients of the loss by the trainable variables, in float32.

    The loss has no regularization. With several replicas the moving statistics replace those of the batch, which can
    be computed in a training step only.
    """
    strategy = tf.distribute.get_strategy()
    training = strategy.num_replicas_in_sync == 1

    def of_replica(images, targets):
        with tf.GradientTape() as tape:
            outputs = outputs_by_head(model(images, training=training))
            losses = losses_by_head(outputs, targets, targets.shape[0], from_logits=from_logits)
            # Without scaling small gradients would be zero in float16.
            scaled = model.optimizer.scale_loss(total_loss(losses, aux_weight))
        scale = model.optimizer.scale_loss(1.0)
        found = tape.gradient(scaled, [v.value for v in model.trainable_variables], unconnected_gradients="zero")
        return [tf.cast(gradient, "float32") / scale for gradient in found]

    @tf.function(autograph=False)
    def gradients(images, targets):  # every replica has the whole batch
        return [strategy.experimental_local_results(x)[0] for x in strategy.run(of_replica, (images, targets))]

    return gradients


def activations_of(model):
    """Return a function (images) -> {stage: its last map}, {layer: SE gates}, {deformable convolution: offsets}."""
    ends, gates, deformable = {}, {}, {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        ends[keras_cnns.level_of(layer.name)] = keras.tree.flatten(layer.output)[0]
        if layer.name.endswith("_sigmoid") and layer.output.shape[1:3] == (1, 1):
            gates[layer.name] = layer.output
        if isinstance(layer, DeformableConv2D):
            deformable[layer.name] = layer
    inputs = {name: layer.input for name, layer in deformable.items()}
    inner = keras.Model(model.input, [ends, gates, inputs])

    @tf.function(autograph=False)
    def look(images):
        stages, gate_values, maps = inner(images, training=False)
        offsets = {name: layer.offsets_and_mask(maps[name])[0] for name, layer in deformable.items()}
        return stages, gate_values, offsets

    return look


def by_stage(kind, named):
    """Return {"kind/stage": all values of the stage} for pairs (name of the layer or variable, array)."""
    stages = {}
    for name, array in named:
        stages.setdefault(f"{kind}/{keras_cnns.level_of(name)}", []).append(np.ravel(array))
    return {tag: np.concatenate(arrays) for tag, arrays in stages.items()}


def heat_map(epochs, norms, names):
    """Draw the norm of each kernel's gradient (rows, the first layer on top) over the epochs (columns)."""
    figure = new_figure(7, 6)
    axes = figure.add_subplot()
    # A norm of exactly zero is shown as the smallest positive number of float32.
    values = np.log10(np.maximum(np.array(norms).T, np.finfo(np.float32).tiny))
    image = axes.imshow(values, aspect="auto", cmap="magma", interpolation="nearest", vmin=-8, vmax=2)
    axes.set_xticks(range(len(epochs)), epochs)
    shown = sorted({round(place) for place in np.linspace(0, len(names) - 1, 12)})
    axes.set_yticks(shown, [names[place] for place in shown], fontsize=7)
    axes.set_xlabel("epochs")
    figure.colorbar(image, label="log10 of the gradient's norm", extend="both")
    return figure
