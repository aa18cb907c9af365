"""One job to one record: configuration, trainer, callbacks, checkpoints, warm start."""
