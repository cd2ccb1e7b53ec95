"""Named recipes: those that were run here on two CPU cores, with what they reached, and those of the papers.

The recipes for ImageNet and CIFAR-10 were not run here; there was no ImageNet. They are what the papers' sections say,
which a comment names; what a paper does not say, and where the recipe is not the paper, stands there too. All differ
from the papers in this:

- Pixels are normalised with ImageNet's mean and standard deviation; the papers subtract a mean, of each pixel or
  channel.
- A tenth of the training images validates and is not trained on (45,000 and 5,000 on CIFAR-10, as in He et al. 2016;
  the other papers train on all in the end), so that an epoch is that much shorter. Schedules count epochs.
- Evaluation looks at one view, the middle of an image as large as those of training. Ten crops, several scales and
  the 256 pixels that most papers scale to are left out.
- Weights start as the networks' modules say.
- Weight decay leaves biases and normalizations alone, unless a comment says so: the papers do not tell.

A batch too large for the memory: divide `batch_size` and `learning_rate` by the same number (Goyal et al. 2017).
"""

import difflib
from dataclasses import replace
from pathlib import Path

from training.errors import UserError
from training.recipe import Recipe
from training.run_folder import RECIPE_FILE

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

# What the papers' recipes for ImageNet have in common.
IMAGENET = Recipe(name="imagenet", data="imagenet2012", image_size=224, flip=True, momentum=0.9)
# Padding by 4 pixels, flips and batches of SGD, on CIFAR-10.
CIFAR = Recipe(name="cifar", data="cifar10", image_size=32, crop="pad", flip=True, momentum=0.9, weight_decay=1e-4)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # One of each family, at a size that fits it. The percentages are of the 360 test images.
        replace(
            DIGITS, name="alexnet_digits", model="AlexNet", image_size=67, epochs=15, learning_rate=3e-4
        ),  # 99.44 %
        replace(
            DIGITS, name="vgg11_digits", model="VGG11", model_args={"batch_norm": True}, learning_rate=3e-4
        ),  # 100.00 %
        # The default of `make train`: the network of the paper with its two heads (section 5: weight 0.3).
        # 98.33, 99.44, 99.44 % with seeds 0, 1, 2.
        replace(DIGITS, name="googlenet_digits", model="GoogLeNet", model_args={"aux_heads": True}, epochs=20),
        replace(DIGITS, name="inceptionv1_digits", model="InceptionV1", model_args={"aux_heads": True}),  # 98.61 %
        replace(DIGITS, name="resnet18_digits", model="ResNet18"),  # 98.33 %
        # 99.72 %
        replace(
            DIGITS,
            name="densenet40_digits",
            model="DenseNetCIFAR",
            model_args={"depth": 40, "growth_rate": 12},
            image_size=16,
        ),
        replace(DIGITS, name="seresnet18_digits", model="SEResNet18"),  # 98.61 %
        replace(DIGITS, name="efficientnetb0_digits", model="EfficientNetB0", epochs=20, learning_rate=2e-3),  # 96.67 %
        # The baseline of `make tune`: a quarter of B0's channels, half of its layers. Batches of 16 give batch
        # normalization's moving statistics, with momentum 0.99, enough steps to settle.
        replace(
            DIGITS,
            name="efficientnet_narrow_digits",
            model="EfficientNet",
            model_args={"width": 0.25, "depth": 0.5},
            batch_size=16,
            epochs=8,
            learning_rate=3e-3,
        ),
        # 98.33 %. Before, with other draws, 98.06 %; with batches of 32 images 12 epochs gave 96.94 %, and at 32
        # pixels, where the last maps are of one pixel, 20 epochs 93.61 %.
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
        # A start for one's own photographs, --data folder:PATH; not from a paper. SGD as in He et al. 2016, section
        # 3.4, with a cosine instead of steps and the learning rate scaled from 256 images a step to 32. A crop has a
        # quarter of the image or more, so that the object mostly stays in sight. Not run here.
        Recipe(
            name="resnet18_photos",
            model="ResNet18",
            data="folder:photos",
            image_size=224,
            batch_size=32,
            epochs=30,
            crop="area",
            crop_min=0.25,
            flip=True,
            policy="trivialaugment",
            label_smoothing=0.1,
            optimizer="sgd",
            learning_rate=0.0125,
            weight_decay=1e-4,
            warmup_epochs=1.0,
        ),
        # A new head on a network that was trained before; --init names its weights, --model the network. Not from a
        # paper and not run here; a backbone that stays as it is does not always pay (docs/finetuning.md).
        Recipe(
            name="finetune_photos",
            model="ResNet50",
            data="folder:photos",
            image_size=224,
            batch_size=32,
            epochs=10,
            crop="area",
            crop_min=0.25,
            flip=True,
            optimizer="adam",
            learning_rate=1e-3,
            warmup_epochs=1.0,
            freeze="backbone",
        ),
        # Krizhevsky et al. 2012, sections 4.1 and 5: batches of 128, L2 of 5e-4 on all weights, 0.01 divided by 10 by
        # hand where the validation error stood still, about 90 epochs; crops of 224 pixels (227 here, see alexnet.py)
        # from images scaled to 256, flips, colours along the principal components. Not in the paper: for how many
        # epochs it stood still, 5 here. The paper divides three times and crops from the square in the middle.
        replace(
            IMAGENET,
            name="alexnet_imagenet",
            model="AlexNet",
            image_size=227,
            batch_size=128,
            epochs=90,
            crop="scale",
            crop_min=256 / 227,
            crop_max=256 / 227,
            lighting=0.1,
            learning_rate=0.01,
            weight_decay=5e-4,
            decay_norms=True,
            schedule="plateau",
            decay_epochs=5.0,
        ),
        # Simonyan and Zisserman 2015, section 3.1: batches of 256, L2 of 5e-4, 0.01 divided by 10 as in AlexNet (three
        # times), 370,000 steps, 74 epochs; images scaled to 256..512, flips, colours as in AlexNet. Not in the paper:
        # the 5 epochs without progress. The paper starts this network from a trained one of 11 layers, and at 256..512
        # from one trained at 384.
        replace(
            IMAGENET,
            name="vgg16_imagenet",
            model="VGG16",
            batch_size=256,
            epochs=74,
            crop="scale",
            crop_min=256 / 224,
            crop_max=512 / 224,
            lighting=0.1,
            learning_rate=0.01,
            weight_decay=5e-4,
            schedule="plateau",
            decay_epochs=5.0,
        ),
        # Szegedy et al. 2015, section 6: momentum 0.9, 4 % less every 8 epochs, crops of 8..100 % of the area with
        # aspect ratios of 3/4..4/3, photometric distortions, an average of the weights; section 5: heads of weight 0.3.
        # Not in the paper: learning rate, batch, decay and epochs, which are those of Caffe's bvlc_googlenet (10
        # million steps of 32); flips; how strong the distortions and how long the average are.
        replace(
            IMAGENET,
            name="googlenet_imagenet",
            model="GoogLeNet",
            model_args={"aux_heads": True},
            batch_size=32,
            epochs=250,
            crop="area",
            crop_min=0.08,
            color_jitter=0.4,
            learning_rate=0.01,
            weight_decay=2e-4,
            schedule="exponential",
            decay_rate=0.96,
            decay_epochs=8.0,
            aux_weight=0.3,
            ema=0.9999,
        ),
        # He et al. 2016, section 3.4: batches of 256, 0.1 divided by 10 where the error stands still, L2 of 1e-4, up to
        # 600,000 steps, 120 epochs; images scaled to 256..480, flips, colours as in AlexNet. Not in the text: when the
        # error stands still, which we take to be after 30 and 60 epochs. version="1" is the paper's network.
        replace(
            IMAGENET,
            name="resnet50_imagenet",
            model="ResNet50",
            model_args={"version": "1"},
            batch_size=256,
            epochs=120,
            crop="scale",
            crop_min=256 / 224,
            crop_max=480 / 224,
            lighting=0.1,
            learning_rate=0.1,
            weight_decay=1e-4,
            schedule="steps",
            milestones=[30.0, 60.0],
        ),
        # He et al. 2016, section 4.2: batches of 128, 0.1 divided by 10 after 32,000 and 48,000 of 64,000 steps, L2 of
        # 1e-4. An epoch of 45,000 images is 351 steps, and 182 whole epochs are 63,882.
        replace(
            CIFAR,
            name="resnet56_cifar",
            model="ResNet56",
            batch_size=128,
            epochs=182,
            learning_rate=0.1,
            schedule="steps",
            milestones=[32_000 / 351, 48_000 / 351],
        ),
        # Huang et al. 2017, section 4.2: batches of 64, 300 epochs, 0.1 divided by 10 after a half and three quarters
        # of them, Nesterov's momentum, L2 of 1e-4. The network is the paper's L = 40, k = 12, on C10+.
        replace(
            CIFAR,
            name="densenet_cifar",
            model="DenseNetCIFAR",
            model_args={"depth": 40, "growth_rate": 12},
            batch_size=64,
            epochs=300,
            learning_rate=0.1,
            nesterov=True,
            schedule="steps",
            milestones=[150.0, 225.0],
        ),
        # Hu et al. 2018, the section on the experiments on ImageNet: batches of 1024, 0.6 divided by 10 every 30 of 100
        # epochs, crops by area, flips. Not found there: the decay, which is ResNet's, and label smoothing, which is
        # off. Their sampling balanced over the classes is left out. version="1" is the paper's network.
        replace(
            IMAGENET,
            name="seresnet50_imagenet",
            model="SEResNet50",
            model_args={"version": "1"},
            batch_size=1024,
            epochs=100,
            crop="area",
            crop_min=0.08,
            learning_rate=0.6,
            weight_decay=1e-4,
            schedule="steps",
            milestones=[30.0, 60.0, 90.0],
        ),
        # Tan and Le 2019, section 5.2: RMSprop with decay and momentum 0.9, 0.256 times 0.97 every 2.4 epochs, L2 of
        # 1e-5, dropout 0.2, stochastic depth 0.2, AutoAugment, for which RandAugment stands here, as strong as in
        # torchvision. From the authors' program and not the paper: batches of 4096 (their 0.016 for 256 images is 0.256
        # then), 350 epochs, 5 of them warming up, epsilon, label smoothing, the average of the weights, crops by area,
        # flips. It decays biases too, and its mean of the squared gradients starts at 1, Keras's at 0.
        replace(
            IMAGENET,
            name="efficientnetb0_imagenet",
            model="EfficientNetB0",
            model_args={"drop_connect": 0.2},
            batch_size=4096,
            epochs=350,
            crop="area",
            crop_min=0.08,
            policy="randaugment",
            label_smoothing=0.1,
            optimizer="rmsprop",
            learning_rate=0.256,
            epsilon=1e-3,
            weight_decay=1e-5,
            schedule="exponential",
            decay_rate=0.97,
            decay_epochs=2.4,
            warmup_epochs=5.0,
            ema=0.9999,
        ),
        # Today's way to train ResNet-50, after torchvision's recipe of 2021: batches of 1024, 600 epochs, 0.5 with 5
        # epochs of warm-up and a cosine, L2 of 2e-5 but not on normalizations (and here not on biases), TrivialAugment,
        # random erasing 0.1, mixup 0.2, CutMix 1, label smoothing 0.1, an average of the weights (theirs of every 32nd
        # step, which forgets about as fast). Stochastic depth of 0.05 is from Wightman et al. 2021, A2. Left out:
        # repeated augmentation, training at 176 pixels.
        replace(
            IMAGENET,
            name="modern_resnet50_imagenet",
            model="ResNet50",
            model_args={"drop_connect": 0.05},
            batch_size=1024,
            epochs=600,
            crop="area",
            crop_min=0.08,
            policy="trivialaugment",
            random_erasing=0.1,
            mixup=0.2,
            cutmix=1.0,
            label_smoothing=0.1,
            learning_rate=0.5,
            weight_decay=2e-5,
            schedule="cosine",
            warmup_epochs=5.0,
            ema=0.99997,
        ),
    )
}


def find_recipe(name):
    """Return a named recipe, or one from a JSON file.

    Raises:
        UserError: There is neither, or the file is not a recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    if Path(name).is_file():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{name} cannot be read as a recipe: {error}. Pass the recipe.json of a run.") from error
        return Recipe.from_json(text, name)
    if (Path(name) / RECIPE_FILE).is_file():
        raise UserError(f"{name} is a folder. To train its recipe, pass {Path(name) / RECIPE_FILE}.")
    with_network = [recipe.name for recipe in RECIPES.values() if recipe.model.lower() == name.lower()]
    if with_network:
        raise UserError(
            f"{name} is a network. Pass a recipe that trains it ({', '.join(with_network)}), or another recipe and "
            f"--model {name}."
        )
    near = difflib.get_close_matches(name, RECIPES)
    hint = f"Did you mean {', '.join(near)}?" if near else "`python -m training recipes` lists them."
    raise UserError(f"There is no recipe {name!r}. {hint} The path of a recipe.json works too.")


def recipe_from(options, base):
    """Return the recipe of a command line whose defaults were the values of `base`.

    model_args are merged with the base's own; null removes one.

    Args:
        options: Parsed options, with one for each field of Recipe.
        base: The recipe that the command line begins with.
    """
    values = {name: options[name] for name in Recipe.__dataclass_fields__}
    merged = base.model_args | (values["model_args"] or {})
    values["model_args"] = {name: value for name, value in merged.items() if value is not None}
    if values["model"].lower() != base.model.lower() and values["name"] == base.name:
        values["name"] = f"{base.name}-{values['model']}"  # a run should not be called after another network
    return Recipe(**values)
