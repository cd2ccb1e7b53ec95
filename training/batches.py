"""From a split to batches: a pure function of (seed, epoch, position), which can start at any step.

On several devices a batch has the same images, mixed with the same partners, as on one: worker w of W loads every W-th
image of it.
"""

import os
import zlib

import tensorflow as tf

from training.augment import augment, mix
from training.pixels import decode, resize


@tf.autograph.experimental.do_not_convert  # it would take time in every epoch, and no Python here depends on a tensor
def training_batches(data, recipe, epoch, start=0, context=None):
    """Return the batches of one epoch of training: images, targets and examples.

    Args:
        data: The data set.
        recipe: The recipe, for image size, batch size, augmentation and seed.
        epoch: Number of the epoch, from 0; order and augmentation differ from epoch to epoch.
        start: Number of steps to skip.
        context: The part of each batch that this worker loads, and the number of replicas that share it; None for one
            device.

    Returns:
        A data set of images (batch, image_size, image_size, 3), float32 RGB 0..255; targets (batch, classes), float32,
        which sum to one; examples (batch,), int64, the positions of the images in the split. Full batches only.
    """
    context = context or tf.distribute.InputContext()
    order = zlib.crc32(f"{recipe.seed} {epoch}".encode())
    workers, worker = context.num_input_pipelines, context.input_pipeline_id
    replicas = context.num_replicas_in_sync
    steps = data.train.size // recipe.batch_size
    classes = len(data.class_names)

    def draw(image, label, example):
        return augment(image, recipe, tf.stack([tf.constant(order, tf.int64), example])), label, example

    def share_of(worker):
        images = data.train.load(order, first=start * recipe.batch_size + worker, every=workers)
        images = images.map(draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return images.batch(recipe.batch_size // workers, drop_remainder=True)

    def pairs_of(before, share):
        """Return `mix`'s input if the image before each one is in another share: both images, one after the other."""
        pairs = zip(before, share, strict=True)
        pairs = [tf.stack([one if worker else tf.roll(one, 1, axis=0), other], axis=1) for one, other in pairs]
        return [tf.reshape(pair, (-1, *pair.shape[2:])) for pair in pairs]

    def mixed(step, batch):
        images, labels, examples = pairs_of(*batch) if paired else batch
        key = tf.stack([tf.constant(order, tf.int64), -1 - step])  # no image has this key
        values = *mix(images, labels, classes, recipe, key), examples
        return tuple(value[1::2] for value in values) if paired else values

    paired = workers > 1 and bool(recipe.mixup or recipe.cutmix)
    batches = share_of(worker)
    if paired:
        batches = tf.data.Dataset.zip(share_of((worker - 1) % workers), batches)
    batches = batches.take(max(steps - start, 0)).enumerate(start)
    batches = batches.map(mixed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if replicas > workers:
        batches = batches.rebatch(recipe.batch_size // replicas, drop_remainder=True)
    return prefetched(batches)


@tf.autograph.experimental.do_not_convert
def evaluation_batches(split, recipe, context=None):
    """Return the batches of a whole split in its order: images (batch, image_size, image_size, 3), float32 RGB 0..255,
    and labels (batch,), int64; the last batch may be smaller."""
    context = context or tf.distribute.InputContext()
    images = split.load(None, first=context.input_pipeline_id, every=context.num_input_pipelines).map(
        lambda image, label, example: (resize(decode(image), *recipe.resizing), label),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return prefetched(images.batch(max(1, recipe.batch_size // context.num_replicas_in_sync)))


def prefetched(batches):
    """Return batches that are prepared ahead, with as many parallel calls from the beginning as there will be.

    tf.data's tuner would change their number meanwhile, and the end of an epoch can wait five seconds for its thread.
    The threads of TensorFlow's own pool, one for each core, are not enough: some of them wait for others.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 4 * (os.cpu_count() or 1)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)
