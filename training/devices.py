"""The devices of a run: one, all GPUs of a machine, or several machines."""

import contextlib
import functools
import json
import os
import zlib

import keras
import tensorflow as tf

from training.errors import UserError


def found_distribution():
    """Return what "auto" means here: several machines if TF_CONFIG or Slurm says so, otherwise all devices."""
    if "TF_CONFIG" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return "multiworker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "none"


def make_strategy(distribution):
    """Return the strategy of tf.distribute for "none", "mirrored" or "multiworker".

    Raises:
        UserError: "multiworker" without TF_CONFIG or Slurm, or with a wrong TF_CONFIG.
    """
    if distribution == "none":
        return tf.distribute.get_strategy()
    if distribution == "mirrored":
        return mirrored()
    if "TF_CONFIG" in os.environ:
        check_tf_config(os.environ["TF_CONFIG"])
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif "SLURM_PROCID" in os.environ:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver()
    else:
        raise UserError(
            "distribution='multiworker' needs TF_CONFIG, or Slurm's variables. To try it on this machine: python -m "
            "training launch --workers 2 fit RECIPE."
        )
    # NCCL between GPUs, gRPC between CPUs; `auto` would choose the same.
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


@functools.cache
def mirrored():
    """Return the strategy over all GPUs, or all CPUs if there is no GPU.

    It is created once per process: a second one would number its collectives from the start, and TensorFlow would
    confuse them with those of the first ("Shape mismatch in the collective instance").
    """
    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy([device.name for device in gpus or tf.config.list_logical_devices("CPU")])


def check_tf_config(text):
    """Raise a UserError unless TF_CONFIG lists workers and says which of them this process is."""
    try:
        config = json.loads(text)
        workers = config["cluster"]["worker"]
        kind, index = config["task"]["type"], int(config["task"]["index"])
        if kind != "worker" or not 0 <= index < len(workers):
            raise ValueError(f"the task {kind} {index} is not among its {len(workers)} workers")
    except (ValueError, KeyError, TypeError) as error:
        example = {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}
        raise UserError(
            f"TF_CONFIG is wrong ({type(error).__name__}: {error}). It should look like {json.dumps(example)}."
        ) from error


def is_chief(strategy):
    """Return whether this process writes the files: it is the only one, the chief, or else the first worker."""
    resolver = strategy.cluster_resolver
    if resolver is None:
        return True
    return resolver.task_type == "chief" or ("chief" not in resolver.cluster_spec().jobs and resolver.task_id == 0)


@contextlib.contextmanager
def chief_first(strategy):
    """Let the chief complete a block, or raise in it, before the other processes enter it."""
    if not is_chief(strategy):
        total(strategy, 0)
    try:
        yield
    finally:
        if is_chief(strategy):
            total(strategy, 0)


def check_agreement(strategy, view, what):
    """Raise a UserError in at least one process if the processes do not see the same.

    Args:
        strategy: The strategy.
        view: A text that should be the same in every process.
        what: What the text describes, for the error message.
    """
    number = zlib.crc32(view.encode())
    # A process raises nothing only if its number is the mean of all numbers.
    if total(strategy, number) != number * strategy.num_replicas_in_sync:
        raise UserError(f"The processes do not see the same {what}. Put it where all machines see it at the same path.")


def total(strategy, number):
    """Return the sum of a number, or the count of a truth value, over all replicas; it waits for all processes."""
    return int(summing(strategy)(tf.constant(int(number), tf.int64)))


@functools.cache
def summing(strategy):
    """Return the function that `total` calls, traced once per strategy."""
    return tf.function(
        lambda number: strategy.reduce("SUM", strategy.run(lambda: tf.identity(number)), axis=None), autograph=False
    )


def prepare_network(model, recipe, strategy):
    """Prepare a network for several replicas: statistics of the whole batch, and other dropout masks on each replica.

    Keras's seed generators would give all replicas the same masks.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = recipe.sync_batch_norm
        if isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator):
            layer.seed_generator.next = seeds_by_replica(layer.seed_generator.next)


def seeds_by_replica(next_seed):
    """Return a version of a seed generator's `next` whose seeds differ between replicas."""

    def next_of_replica(ordered=True):
        seed = next_seed(ordered)
        context = tf.distribute.get_replica_context()
        number = context.replica_id_in_sync_group if context else 0
        return seed + tf.cast(tf.stack([number * 1_000_003, 0]), seed.dtype)

    return next_of_replica
