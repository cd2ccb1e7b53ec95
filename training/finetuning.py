"""Training that starts from another network's weights: what is taken over, what is frozen."""

from pathlib import Path

import safetensors

from training.errors import UserError


def weights_file(init):
    """The safetensors file of a run folder, or the file itself."""
    path = Path(init)
    file = path / "best.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"init={init!r}: there is no {file}. Pass a run folder or a safetensors file.")
    return file


def initial_preprocessing(init):
    """How pixels were normalised for the weights in a run folder or a file, as the file says."""
    try:
        with safetensors.safe_open(weights_file(init), framework="numpy") as file:
            return (file.metadata() or {}).get("preprocessing", "imagenet")
    except safetensors.SafetensorError as error:
        raise UserError(f"init={init!r}: not a whole safetensors file ({error}). Pass another one.") from error
