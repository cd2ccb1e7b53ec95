"""Named recipes. Each says where it comes from and, where it was really run, what it reached."""

from training.recipe import Recipe

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # The default of `make train`: the network of the paper with its two heads (section 5: weight 0.3), on digits
        # enlarged from 8 to 32 pixels. Adam instead of the paper's asynchronous SGD, since 20 epochs are few.
        Recipe(
            name="googlenet_digits",
            model="GoogLeNet",
            model_args={"aux_heads": True},
            data="digits",
            image_size=32,
            batch_size=32,
            epochs=20,
            optimizer="adam",
            learning_rate=1e-3,
            warmup_epochs=1.0,
        ),
    )
}
