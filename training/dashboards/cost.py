"""What the dashboards cost: the same steps with and without them, in turns.

python -m training.dashboards.cost
"""

import argparse
import statistics
import tempfile
import time

import keras

from training import dashboards
from training.batches import training_batches
from training.data import load_data
from training.loop import make_train_step
from training.optimization import make_optimizer
from training.recipe import Recipe, prepare_machine

CASES = {
    "GoogLeNet, 32 px, batch 32": Recipe(model_args={"aux_heads": True}, image_size=32, optimizer="adam", epochs=20),
    "ResNet50, 224 px, batch 8": Recipe(model="ResNet50", data="synthetic", image_size=224, batch_size=8, epochs=20),
}


def measure(recipe, steps, pairs):
    """Step times without and with the dashboards, and what an epoch's end adds.

    Returns:
        A list of (seconds without, seconds with) per step, and {class of the dashboard: seconds of an epoch's end with
        pictures}, the second time, when nothing is compiled any more.
    """
    recipe = recipe.resolved()
    prepare_machine(recipe)
    data = load_data(recipe)
    model = recipe.build(len(data.class_names))
    model.compile(optimizer=make_optimizer(recipe, data.train.size // recipe.batch_size, model.trainable_variables))
    model.optimizer.build(model.trainable_variables)
    step = make_train_step(model, recipe)
    with tempfile.TemporaryDirectory() as folder:
        boards = dashboards.of_run(dashboards.Log(folder), recipe, data, {}, picture_epochs=1)
        listed = {
            True: keras.callbacks.CallbackList(boards, model=model, steps=steps),
            False: keras.callbacks.CallbackList((), model=model, steps=steps),
        }

        def block(watched):
            callbacks = listed[watched]
            batches = iter(training_batches(data, recipe, 0).repeat())
            next(batches)  # fills the buffers
            if watched:
                callbacks.on_epoch_begin(1)  # before the first epoch the probes look, which is measured below
            started = time.perf_counter()
            for number in range(steps):
                images, targets, _ = next(batches)
                callbacks.on_train_batch_begin(number)
                values = {name: float(value) for name, value in step(images, targets).items()}
                model.gradient_norm = values["gradient_norm"]
                callbacks.on_train_batch_end(number, values)
            return (time.perf_counter() - started) / steps

        listed[True].on_train_begin()
        block(True), block(False)
        # Which comes first alternates too.
        timed = [{watched: block(watched) for watched in (pair % 2 == 0, pair % 2 == 1)} for pair in range(pairs)]
        logs = {"loss": 0.0, "accuracy": 0.0, "val_loss": 0.0, "val_accuracy": 0.0}
        ends = {}
        for epoch in (0, 1):
            for board in boards:
                started = time.perf_counter()
                board.on_epoch_end(epoch, logs)
                ends[type(board).__name__] = time.perf_counter() - started
    return [(pair[False], pair[True]) for pair in timed], ends, data.train.size // recipe.batch_size


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="steps of a block (default: 20)")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of blocks (default: 10)")
    parser.add_argument("--every", type=int, default=5, help="epochs between two rounds of pictures (default: 5)")
    parser.add_argument("--case", choices=list(CASES), action="append", help="only this one")
    options = parser.parse_args()
    for name in options.case or CASES:
        pairs, ends, steps_per_epoch = measure(CASES[name], options.steps, options.pairs)
        extra = sorted(with_boards / without - 1 for without, with_boards in pairs)
        median = statistics.median(without for without, _ in pairs)
        pictures = sum(ends.values()) / options.every / (median * steps_per_epoch)
        print(f"{name}: {1000 * median:.1f} ms a step without, {statistics.median(extra):+.2%} with (median of")
        print(f"  {options.pairs} pairs; {extra[0]:+.2%} to {extra[-1]:+.2%}). End of an epoch with pictures: ", end="")
        print(", ".join(f"{board} {seconds:.2f} s" for board, seconds in ends.items() if seconds > 0.005))
        print(f"  every {options.every} epochs of {steps_per_epoch} steps: {pictures:+.2%} of the time")


if __name__ == "__main__":
    main()
