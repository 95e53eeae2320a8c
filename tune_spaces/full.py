"""Search space of every key that may decide between two models of a category, for a cluster.

Allow some hundred trials.
"""

from mrkd.training.search.space import choice, loguniform, uniform

SPACE = {
    "train.mask_rate": uniform(0.0, 0.9),
    "train.learning_rate": loguniform(1e-4, 1e-2),
    "train.weight_decay": loguniform(1e-7, 1e-3),
    "model.backbone": choice(
        ["resnet18", "wide_resnet50_2", "efficientnet_lite0", "efficientnet_lite2"]
    ),
    "model.levels": choice([(), (1, 2), (2, 3), (1,), (2,)]),
    "model.scconv": choice([True, False]),
    "model.simam": choice([True, False]),
    "model.image_score": choice(["max", "top_share_mean"]),
    "model.smooth": uniform(0.0, 8.0),
}
