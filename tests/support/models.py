"""A model small enough for a test: EfficientNet-Lite0's first blocks, random weights, 64 px."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from mrkd.config import FitConfig, ModelConfig, TrainConfig
from mrkd.data.roi import Roi
from mrkd.model.ensemble import Ensemble, model_of
from mrkd.model.feature_cache import TeacherFeatures
from mrkd.model.mrkd import MRKD, build
from mrkd.model.teacher import Teacher
from mrkd.model.teacher.teacher import load_teacher, teacher_of
from mrkd.training.fit import CrossFit, calibrate_ensemble

MODEL = ModelConfig(
    backbone="efficientnet_lite0",
    taps=(1, 3),
    weights="random",
    image_size=64,
    sru_groups=8,
    feature_norm="standardise",
    combine="calibrated",
)
FIT = FitConfig(
    max_steps=4,
    batch_size=4,
    validation_share=0.2,
    calibration_share=0.25,
    device="cpu",
    precision="float32",
)


def small_model(seed: int = 0, roi: Roi | None = None, **values: object) -> MRKD:
    """A fresh model as training leaves one; each seed has other weights, all have one teacher."""
    model = build(MODEL.with_values(values), _teacher(), seed=seed, roi=roi).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's
    return model


def small_cells(pixels_NHW3: NDArray[np.uint8], **values: object) -> Ensemble:
    """Cell Gaussians of these pictures, 64 px, under scales by the pictures themselves."""
    config = MODEL.with_values({"student": False, "cells": True, **values})
    teacher = teacher_of(config, seed=0)
    model = model_of(config, teacher).eval()
    assert isinstance(model, Ensemble)
    features = TeacherFeatures(teacher, pixels_NHW3, budget_bytes=2**30, roi=model.pixel_roi)
    CrossFit(model, features, np.zeros(len(pixels_NHW3), np.int64), seed=0)
    calibrate_ensemble(model, features)
    return model


@functools.cache
def _teacher() -> Teacher:
    return load_teacher(MODEL.backbone, taps=MODEL.taps, weights="random")


def small_config(root: str, workspace: str, **values: object) -> TrainConfig:
    """A training of a few steps; `values` by dotted paths."""
    tables = {"model": MODEL.to_dict(), "train": FIT.to_dict()}
    config = TrainConfig.from_dict(
        {"workspace": workspace, "run": "test", "data": {"root": root}, **tables}
    )
    return config.with_values(values)
