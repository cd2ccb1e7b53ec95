"""Named recipes. Each says where it comes from and, where it was really run, what it reached on two CPU cores."""

from dataclasses import replace

from training.recipe import Recipe

# Digits enlarged from 8 to 32 pixels. Adam instead of the papers' SGD, since the epochs are few.
DIGITS = Recipe(
    name="digits",
    data="digits",
    image_size=32,
    batch_size=32,
    epochs=10,
    optimizer="adam",
    learning_rate=1e-3,
    warmup_epochs=1.0,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # One of each family, at a size that fits it. The percentages are of the 360 test images.
        replace(
            DIGITS, name="alexnet_digits", model="AlexNet", image_size=67, epochs=15, learning_rate=3e-4
        ),  # 99.44 %
        replace(
            DIGITS, name="vgg11_digits", model="VGG11", model_args={"batch_norm": True}, learning_rate=3e-4
        ),  # 98.89 %
        # The default of `make train`: the network of the paper with its two heads (section 5: weight 0.3).
        # 99.44, 99.17, 99.44 % with seeds 0, 1, 2.
        replace(DIGITS, name="googlenet_digits", model="GoogLeNet", model_args={"aux_heads": True}, epochs=20),
        replace(DIGITS, name="inceptionv1_digits", model="InceptionV1", model_args={"aux_heads": True}),  # 99.17 %
        replace(DIGITS, name="resnet18_digits", model="ResNet18"),  # 98.89 %
        # 99.72 %
        replace(
            DIGITS,
            name="densenet40_digits",
            model="DenseNetCIFAR",
            model_args={"depth": 40, "growth_rate": 12},
            image_size=16,
        ),
        replace(DIGITS, name="seresnet18_digits", model="SEResNet18"),  # 98.33 %
        replace(DIGITS, name="efficientnetb0_digits", model="EfficientNetB0", epochs=20, learning_rate=2e-3),  # 97.22 %
        # 98.06 %. With batches of 32 images 12 epochs gave 96.94 %, and at 32 pixels, where the last maps are of one
        # pixel, 20 epochs 93.61 %.
        replace(
            DIGITS,
            name="deformable_digits",
            model="DeformableResNet50",
            image_size=48,
            batch_size=16,
            learning_rate=5e-4,
        ),
        # The picture of the vanishing gradient and its cure: 56 layers without batch normalization, started as Glorot
        # and Bengio 2010 say, with and without residual connections (He et al. 2016, section 4.2).
        replace(
            DIGITS,
            name="plain56_digits",
            model="PlainNetCIFAR",
            model_args={"depth": 56, "batch_norm": False, "kernel_initializer": "glorot_uniform"},
        ),
        replace(
            DIGITS,
            name="residual56_digits",
            model="ResNetCIFAR",
            model_args={"depth": 56, "batch_norm": False, "kernel_initializer": "glorot_uniform"},
        ),
        # A start for one's own photographs, --data folder:PATH; SGD as in He et al. 2016, section 3.4, with a cosine
        # instead of steps and the learning rate scaled from 256 images a step to 32.
        Recipe(
            name="resnet18_photos",
            model="ResNet18",
            data="folder:photos",
            image_size=224,
            batch_size=32,
            epochs=30,
            optimizer="sgd",
            learning_rate=0.0125,
            warmup_epochs=1.0,
        ),
    )
}
