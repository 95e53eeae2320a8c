"""JSON schemas of the fields of Prometheus' operator (v1) that a plant's manifests use."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$"}


def _fields(needed: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {
        "type": "object",
        "properties": fields,
        "required": list(needed),
        "additionalProperties": False,
    }


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


_RELABEL = _fields(
    ("action",),
    sourceLabels=_list(_TEXT),
    regex=_TEXT,
    targetLabel=_TEXT,
    replacement=_TEXT,
    action={"enum": ["replace", "keep", "drop", "labeldrop", "labelkeep"]},
)
_MONITOR = _fields(
    ("selector", "podMetricsEndpoints"),
    selector={"type": "object"},
    podTargetLabels=_list(_TEXT),
    podMetricsEndpoints=_list(
        _fields(
            port=_TEXT,
            path=_TEXT,
            interval=_DURATION,
            relabelings=_list(_RELABEL),
            metricRelabelings=_list(_RELABEL),
        )
    ),
)
_RULES = _fields(
    ("groups",),
    groups=_list(
        _fields(
            ("name", "rules"),
            name=_TEXT,
            interval=_DURATION,
            rules=_list(
                _fields(
                    ("alert", "expr"),
                    alert=_TEXT,
                    expr=_TEXT,
                    labels=_TEXTS,
                    annotations=_TEXTS,
                    **{"for": _DURATION},
                )
            ),
        )
    ),
)
SCHEMAS = {
    kind: _fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"const": kind},
        metadata={"type": "object"},
        spec=spec,
    )
    for kind, spec in (("PodMonitor", _MONITOR), ("PrometheusRule", _RULES))
}
"""By kind."""
