"""On which devices a run computes: one, all GPUs of a machine, or several machines."""

import json
import os

import keras
import tensorflow as tf

from training.errors import UserError


def found_distribution():
    """What "auto" means here: several machines where TF_CONFIG or Slurm says so, else as many devices as there are."""
    if "TF_CONFIG" in os.environ or (int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ):
        return "multiworker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "none"


def make_strategy(distribution):
    """The strategy of tf.distribute for "none", "mirrored" or "multiworker".

    Raises:
        UserError: "multiworker" without TF_CONFIG or Slurm, or with one that is wrong.
    """
    if distribution == "none":
        return tf.distribute.get_strategy()
    if distribution == "mirrored":
        gpus = tf.config.list_logical_devices("GPU")
        return tf.distribute.MirroredStrategy([device.name for device in gpus or tf.config.list_logical_devices("CPU")])
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
    # NCCL between GPUs; gRPC between CPUs, where `auto` would come to the same.
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def check_tf_config(text):
    """Raises a UserError unless TF_CONFIG has workers and says which of them this process is."""
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
    """Whether this process writes the files: the first worker, or the only one."""
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_id


def prepare_network(model, recipe, strategy):
    """Makes a network fit for several replicas: batch statistics of the whole batch, and dropout masks that differ.

    Keras's seed generators would give every replica the same masks.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = recipe.sync_batch_norm
        if isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator):
            layer.seed_generator.next = differing(layer.seed_generator.next)


def differing(next_seed):
    """A seed generator's `next` whose seeds differ between replicas."""

    def next_of_replica(ordered=True):
        seed = next_seed(ordered)
        context = tf.distribute.get_replica_context()
        number = context.replica_id_in_sync_group if context else 0
        return seed + tf.cast(tf.stack([number * 1_000_003, 0]), seed.dtype)

    return next_of_replica
