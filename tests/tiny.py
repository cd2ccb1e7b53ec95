"""A tiny recipe of a network that can be scaled, which a search trains in seconds."""

import dataclasses

from training.recipes import DIGITS

TINY = dataclasses.replace(
    DIGITS,
    name="tiny",
    model="ResNetCIFAR",
    model_args={"depth": 8, "width": 0.25},
    image_size=8,
    batch_size=128,
    epochs=1,
    optimizer="sgd",  # its step is traced faster than Adam's
    learning_rate=0.1,
    warmup_epochs=0.0,
)

# Ways to double TINY's multiply-adds by the formula; the first and the last build the same network.
TRIPLES = ("1.2/1.1/1.15", "1/1.4/1", "1.25/1.1/1.15")
