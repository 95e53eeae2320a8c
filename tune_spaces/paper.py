"""Mask rate, learning rate and backbone, which the paper fixes in one sentence or never names."""

from ray import tune

SPACE = {
    "train.mask_rate": tune.uniform(0.0, 0.9),
    "train.learning_rate": tune.loguniform(1e-4, 1e-2),
    "model.backbone": tune.choice(["resnet18", "resnet50", "wide_resnet50_2"]),
}
