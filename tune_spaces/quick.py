"""Mask rate, learning rate and the small backbones: for two cores and an hour."""

from ray import tune

SPACE = {
    "train.mask_rate": tune.uniform(0.0, 0.9),
    "train.learning_rate": tune.loguniform(1e-3, 1e-2),
    "model.backbone": tune.choice(
        ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    ),
}
