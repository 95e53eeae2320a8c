"""Search space of learning rate, ResNet and mask rate; the paper does not state the last."""

from mrkd.training.search.space import choice, loguniform, uniform

SPACE = {
    "train.mask_rate": uniform(0.0, 0.9),
    "train.learning_rate": loguniform(1e-4, 1e-2),
    "model.backbone": choice(["resnet18", "resnet50", "wide_resnet50_2"]),
}
