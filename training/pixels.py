"""From encoded images to pixels: decoding, and resizing as evaluation does."""

import tensorflow as tf


def decode(image):
    """Decode a JPEG, PNG, GIF, BMP or still WebP image.

    Grey is repeated in three channels, transparency is dropped, 16 bits are reduced to 8, and of a GIF the first frame
    is used.

    Args:
        image: Encoded bytes, a string tensor (); a tensor of pixels is returned as it is.

    Returns:
        RGB 0..255, (height, width, 3), uint8.

    Raises:
        tf.errors.InvalidArgumentError: The image cannot be decoded.
    """
    if image.dtype != tf.string:
        return image
    image = tf.io.decode_image(image, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def resize(image, size):
    """Scale an image until it covers a square, and cut out its center: (height, width, 3) -> (size, size, 3), float32.

    The aspect ratio is kept. Interpolation is bilinear, with antialiasing where the image shrinks.
    """
    target = tf.maximum(scaled_sides(image, size), size)
    return resize_window(image, target, (target - size) // 2, size)


def scaled_sides(image, shorter):
    """Return height and width, int64 (2,), of an image (height, width, 3) with its shorter side scaled to `shorter`."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    return tf.cast(tf.round(sides * (tf.cast(shorter, tf.float32) / tf.reduce_min(sides))), tf.int64)


def resize_window(image, target, corner, size):
    """Scale an image and cut a square out of the result; only the square is computed.

    The whole result of scaling a long, thin image could have a hundred thousand times as many pixels as the square.

    Args:
        image: (height, width, 3), integers or floating point.
        target: Height and width of the whole result in pixels, int64 (2,).
        corner: Top and left of the square in the result in pixels, int64 (2,).
        size: Side of the square in pixels.

    Returns:
        (size, size, 3), float32; bilinear, with antialiasing where the image shrinks.
    """
    sides = tf.cast(tf.shape(image)[:2], tf.float64)
    scale, corner = tf.cast(target, tf.float64) / sides, tf.cast(corner, tf.float64)
    reach = tf.maximum(1 / scale, 1) + 1  # of the kernel, in pixels of the image
    begin = tf.cast(tf.maximum(corner / scale - reach, 0), tf.int32)
    end = tf.cast(tf.minimum((corner + size) / scale + reach, sides), tf.int32)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis, begin[0] : end[0], begin[1] : end[1]],
        size=[size, size],
        scale=tf.cast(scale, tf.float32),
        translation=tf.cast(tf.cast(begin, tf.float64) * scale - corner, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )
    return tf.ensure_shape(resized[0], (size, size, 3))
