"""The teachers: ImageNet networks under their official checkpoints' parameter names.

A network is built whole, so that an official checkpoint loads strictly; a `Teacher` keeps its
layers up to the deepest level.
"""

from mrkd.model.teacher.teacher import Teacher, teacher_from_safetensors, teacher_of

__all__ = ["Teacher", "teacher_from_safetensors", "teacher_of"]
