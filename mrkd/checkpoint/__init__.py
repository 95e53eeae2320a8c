"""One trained model as a folder of files, each with its digest, `model.json` written last.

    models/<category>/<version>/
      model.safetensors          bottleneck, student and feature mask generation; no teacher
      calibrations/<n>.json      thresholds and held-out scores; 1 is written with the model
      history.parquet            one row per epoch
      training_scores.parquet    the final model's score of each good image it was given
      model.json                 what made the model, and sha256 and size of every file above
    teachers/<backbone>-<sha256[:12]>.safetensors      stored once for all models

JSON files are sealed (`mrkd.checkpoint.sealed`): every byte that is read back is a byte that was
written.
"""

from mrkd.checkpoint.card import Calibration, ModelCard, TeacherCard
from mrkd.checkpoint.store import (
    LoadedModel,
    Teachers,
    calibration_numbers,
    folder_of,
    load,
    read_calibration,
    read_card,
    save,
    store_calibration,
    store_teacher,
)

__all__ = [
    "Calibration",
    "LoadedModel",
    "ModelCard",
    "TeacherCard",
    "Teachers",
    "calibration_numbers",
    "folder_of",
    "load",
    "read_calibration",
    "read_card",
    "save",
    "store_calibration",
    "store_teacher",
]
