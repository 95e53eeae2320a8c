"""Files of a trained model: `model.json`, weights, calibrations, history; each with its digest.

    models/<category>/<version>/
      model.safetensors          bottleneck, student and feature mask generation; no teacher
      calibrations/<n>.json      thresholds and held-out scores; 1 is written with the model
      history.parquet            one row per epoch
      training_scores.parquet    the final model's score of each good image it was given
      model.json                 written last: what made the model, sha256 and size of every file
    teachers/<backbone>-<sha256[:12]>.safetensors      stored once for all models

JSON files are sealed (`checksummed_files`): every byte read back is a byte that was written.
"""

from mrkd.model.artefact.metadata_store import (
    add_calibration,
    calibration_numbers,
    folder_of,
    read_calibration,
    read_card,
    read_file,
    read_sides,
)
from mrkd.model.artefact.model_card import CARD, WEIGHTS, Calibration, ModelCard, TeacherCard

__all__ = [
    "CARD",
    "WEIGHTS",
    "Calibration",
    "ModelCard",
    "TeacherCard",
    "add_calibration",
    "calibration_numbers",
    "folder_of",
    "read_calibration",
    "read_card",
    "read_file",
    "read_sides",
]
