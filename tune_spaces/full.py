"""Every key that may decide between two models: for a cluster and some hundred trials."""

from ray import tune

SPACE = {
    "train.mask_rate": tune.uniform(0.0, 0.9),
    "train.learning_rate": tune.loguniform(1e-4, 1e-2),
    "train.weight_decay": tune.loguniform(1e-7, 1e-3),
    "model.backbone": tune.choice(
        ["resnet18", "wide_resnet50_2", "efficientnet_lite0", "efficientnet_lite2"]
    ),
    "model.levels": tune.choice([(), (1, 2), (2, 3), (1,), (2,)]),
    "model.scconv": tune.choice([True, False]),
    "model.simam": tune.choice([True, False]),
    "model.image_score": tune.choice(["max", "top_share_mean"]),
    "model.smooth": tune.uniform(0.0, 8.0),
}
