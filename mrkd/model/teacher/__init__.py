"""The teachers: ImageNet networks under their official checkpoints' parameter names.

A network is built whole, so that an official checkpoint loads strictly; a `Teacher` keeps its
layers up to the deepest level.
"""

from mrkd.model.teacher.architectures import BACKBONES, Spec, build
from mrkd.model.teacher.interface import Backbone
from mrkd.model.teacher.teacher import Teacher, load_teacher, teacher_from_safetensors, teacher_of
from mrkd.model.teacher.weights import WEIGHTS, WeightSource, read_state

__all__ = [
    "BACKBONES",
    "WEIGHTS",
    "Backbone",
    "Spec",
    "Teacher",
    "WeightSource",
    "build",
    "load_teacher",
    "read_state",
    "teacher_from_safetensors",
    "teacher_of",
]
