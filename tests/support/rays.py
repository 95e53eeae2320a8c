"""The executor on Ray that tests use."""

from mrkd.runs.on_ray.executor import OnRay

RAY = OnRay(num_cpus=2)
