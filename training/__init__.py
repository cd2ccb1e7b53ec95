"""One run: recipe, data, model, loop, logs, checkpoints, evaluation, export. Use `python -m training`."""
