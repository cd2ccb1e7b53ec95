"""Named recipes: those that were run on two CPU cores, with their results, and those of the papers.

The recipes for ImageNet and CIFAR-10 were not run to their end, since ImageNet was not available. A comment on each
names the section of the paper, what the paper does not state, and where the recipe differs. All differ from the papers
in the following:

- Pixels are normalised with ImageNet's mean and standard deviation; the papers subtract a mean per pixel or channel.
- A tenth of the training images is held out for validation (45,000 and 5,000 images on CIFAR-10, as in He et al. 2016;
  the other papers finally train on all images), so epochs are a tenth shorter. Schedules count epochs.
- Evaluation uses one view, the center of an image of the training size. Ten crops, several scales and the 256 pixels to
  which most papers scale are left out.
- Weights are initialised as the modules of the networks say.
- Weight decay excludes biases and normalizations unless a comment says otherwise; the papers do not state it.

If a batch does not fit into memory, divide `batch_size` and `learning_rate` by the same number (Goyal et al. 2017).
"""

import difflib
from dataclasses import replace
from pathlib import Path

from training.errors import UserError
from training.recipe import Recipe
from training.run_folder import RECIPE_FILE

# Digits enlarged from 8 to 32 pixels. Adam instead of the papers' SGD, since there are few epochs.
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

# What the recipes for ImageNet have in common.
IMAGENET = Recipe(name="imagenet", data="imagenet2012", image_size=224, flip=True, momentum=0.9)
# CIFAR-10 with padding by 4 pixels, flips and SGD.
CIFAR = Recipe(name="cifar", data="cifar10", image_size=32, crop="pad", flip=True, momentum=0.9, weight_decay=1e-4)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # One of each family, at an image size that fits it. The percentages are accuracies on the 360 test images.
        replace(
            DIGITS, name="alexnet_digits", model="AlexNet", image_size=67, epochs=15, learning_rate=3e-4
        ),  # 99.44 %
        replace(
            DIGITS, name="vgg11_digits", model="VGG11", model_args={"batch_norm": True}, learning_rate=3e-4
        ),  # 100.00 %
        # The recipe of `make train`: the network of the paper with its two auxiliary heads (section 5: weight 0.3).
        # 99.44, 99.17, 98.89 % with seeds 0, 1, 2; with 20 epochs 99.44, 100.00, 99.44 %.
        replace(DIGITS, name="googlenet_digits", model="GoogLeNet", model_args={"aux_heads": True}, epochs=16),
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
        # The same families for small images: without the first strides their last maps have 4 x 4 pixels at 32, instead
        # of one. VGG and SENet, whose maps are then 16 times as costly, at 16 pixels.
        # 99.44 %
        replace(
            DIGITS,
            name="vgg11_small_digits",
            model="VGG11",
            model_args={"batch_norm": True, "output_stride": 8},
            image_size=16,
            epochs=5,
            learning_rate=3e-4,
        ),
        # 99.17 %
        replace(
            DIGITS,
            name="googlenet_small_digits",
            model="GoogLeNet",
            model_args={"aux_heads": True, "output_stride": 8},
            epochs=6,
        ),
        # 98.61 %
        replace(
            DIGITS,
            name="seresnet18_small_digits",
            model="SEResNet18",
            model_args={"output_stride": 8},
            image_size=16,
        ),
        # 98.61 %
        replace(
            DIGITS,
            name="efficientnetb0_small_digits",
            model="EfficientNetB0",
            model_args={"output_stride": 8},
            learning_rate=2e-3,
        ),
        # The baseline of `make tune`: a quarter of B0's channels, half of its layers. With batches of 16 there are
        # enough steps for the moving statistics of batch normalization, with momentum 0.99, to settle.
        replace(
            DIGITS,
            name="efficientnet_narrow_digits",
            model="EfficientNet",
            model_args={"width": 0.25, "depth": 0.5},
            batch_size=16,
            epochs=8,
            learning_rate=3e-3,
        ),
        # 98.33 %; with earlier random draws 98.06 %. With batches of 32 images, 12 epochs gave 96.94 %; at 32 pixels,
        # where the last maps have one pixel, 20 epochs gave 93.61 %.
        replace(
            DIGITS,
            name="deformable_digits",
            model="DeformableResNet50",
            image_size=48,
            batch_size=16,
            learning_rate=5e-4,
        ),
        # The vanishing gradient (docs/tensorboard.md): 56 layers without batch normalization, initialised as in Glorot
        # and Bengio 2010, with and without residual connections (He et al. 2016, section 4.2).
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
        # A start for your own photographs, --data folder:PATH; not from a paper, not run here. SGD as in He et al.
        # 2016, section 3.4, with a cosine instead of steps and the learning rate scaled from 256 images per step to 32.
        # A crop has at least a quarter of the image's area, so that it usually contains the object.
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
        # A new head on a trained network; --init names its weights, --model the network. Not from a paper, not run
        # here; a frozen backbone does not always help (docs/finetuning.md).
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
        # hand when the validation error stopped improving, about 90 epochs; crops of 224 pixels (227 here, see
        # alexnet.py) from images scaled to 256, flips, colour shifts along the principal components. Not in the paper:
        # the number of epochs without improvement, 5 here. The paper divides three times and crops from the center
        # square.
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
        # times), 370,000 steps, 74 epochs; images scaled to 256..512, flips, colour shifts as in AlexNet. Not in the
        # paper: the 5 epochs without improvement. The paper initialises this network from a trained one of 11 layers,
        # and for images of 256..512 from one trained at 384.
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
        # aspect ratios of 3/4..4/3, photometric distortions, an average of the weights; section 5: auxiliary heads of
        # weight 0.3. Not in the paper: learning rate, batch size, weight decay and epochs, which are those of Caffe's
        # bvlc_googlenet (10 million steps of 32 images); flips; the strength of the distortions and the decay of the
        # average.
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
        # He et al. 2016, section 3.4: batches of 256, 0.1 divided by 10 when the error plateaus, L2 of 1e-4, up to
        # 600,000 steps, 120 epochs; images scaled to 256..480, flips, colour shifts as in AlexNet. Not in the paper:
        # when the error plateaus, here assumed after 30 and 60 epochs. version="1" is the paper's network.
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
        # 1e-4. An epoch of 45,000 images has 351 steps, so 182 epochs have 63,882.
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
        # Huang et al. 2017, section 4.2: batches of 64, 300 epochs, 0.1 divided by 10 after one half and three quarters
        # of them, Nesterov momentum, L2 of 1e-4. The network is the paper's L = 40, k = 12, on C10+.
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
        # epochs, crops by area, flips. Not stated there: the weight decay, which is ResNet's here, and label smoothing,
        # which is off. Their class-balanced sampling is left out. version="1" is the paper's network.
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
        # 1e-5, dropout 0.2, stochastic depth 0.2, AutoAugment, here replaced by RandAugment with torchvision's
        # strength. From the authors' program, not the paper: batches of 4096 (its 0.016 per 256 images then becomes
        # 0.256), 350 epochs with 5 of warm-up, epsilon, label smoothing, the average of the weights, crops by area,
        # flips. The program also decays biases, and starts the mean of the squared gradients at 1; Keras starts it at
        # 0.
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
        # A modern way to train ResNet-50, after torchvision's recipe of 2021: batches of 1024, 600 epochs, 0.5 with 5
        # epochs of warm-up and a cosine, L2 of 2e-5 except on normalizations (and here on biases), TrivialAugment,
        # random erasing 0.1, mixup 0.2, CutMix 1, label smoothing 0.1, an average of the weights (torchvision updates
        # it every 32nd step, with a similar time constant). Stochastic depth of 0.05 is from Wightman et al. 2021, A2.
        # Left out: repeated augmentation, training at 176 pixels.
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
    """Return a named recipe, or the recipe in a JSON file.

    Args:
        name: A key of RECIPES, or the path of a recipe.json.

    Raises:
        UserError: Neither exists, or the file is not a recipe.
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

    `model_args` are merged with those of the base; null removes one.

    Args:
        options: Parsed options, with one option per field of Recipe.
        base: The recipe that the command line names.
    """
    values = {name: options[name] for name in Recipe.__dataclass_fields__}
    merged = base.model_args | (values["model_args"] or {})
    values["model_args"] = {name: value for name, value in merged.items() if value is not None}
    if values["model"].lower() != base.model.lower() and values["name"] == base.name:
        values["name"] = f"{base.name}-{values['model']}"  # a run should not be named after another network
    return Recipe(**values)
