"""Search space for two cores and an hour: mask rate, learning rate and the small backbones."""

from mrkd.training.search.space import choice, loguniform, uniform

SPACE = {
    "train.mask_rate": uniform(0.0, 0.9),
    "train.learning_rate": loguniform(1e-3, 1e-2),
    "model.backbone": choice(["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]),
}
