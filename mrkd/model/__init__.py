"""The model: teacher, student, detectors, anomaly map, inference, artefacts and registry."""
