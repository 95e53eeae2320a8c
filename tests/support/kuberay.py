"""JSON schemas of KubeRay's own fields that a plant's manifest may use, by its Go types of 2026.

What lies within them and is Kubernetes' (pods, a container's security context) is any object here:
`kubernetes_validate` knows it. Fields for TLS, ingress, Redis and history servers are left out.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_NUMBER: Schema = {"type": "number", "minimum": 0}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_KUBERNETES: Schema = {"type": "object"}
_LIST: Schema = {"type": "array", "items": _KUBERNETES}


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def _fields(needed: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {
        "type": "object",
        "properties": fields,
        "required": list(needed),
        "additionalProperties": False,
    }


_GROUP: dict[str, Schema] = {
    "template": _KUBERNETES,
    "rayStartParams": _TEXTS,
    "resources": _TEXTS,
    "labels": _TEXTS,
}
_HEAD = _fields(
    ("template",),
    **_GROUP,
    serviceType=_one_of("ClusterIP", "NodePort", "LoadBalancer"),
    headService=_KUBERNETES,
    enableIngress=_FLAG,
)
_WORKERS = _fields(
    ("groupName", "template", "minReplicas", "maxReplicas"),
    **_GROUP,
    groupName=_TEXT,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    numOfHosts=_COUNT,
    idleTimeoutSeconds=_COUNT,
    priority={"type": "integer"},
    suspend=_FLAG,
)
_CLUSTER = _fields(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
    authOptions=_fields(mode=_one_of("disabled", "token"), secretName=_TEXT),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_fields(
        version=_one_of("v1", "v2"),
        upscalingMode=_one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=_COUNT,
        image=_TEXT,
        imagePullPolicy=_one_of("Always", "IfNotPresent", "Never"),
        resources=_KUBERNETES,
        securityContext=_KUBERNETES,
        env=_LIST,
        envFrom=_LIST,
        volumeMounts=_LIST,
    ),
    headServiceAnnotations=_TEXTS,
    upgradeStrategy=_fields(type=_one_of("Recreate", "None")),
    suspend=_FLAG,
)
_JOB = _fields(
    ("entrypoint",),
    entrypoint=_TEXT,
    clusterSelector=_TEXTS,
    rayClusterSpec=_CLUSTER,
    submissionMode=_one_of("K8sJobMode", "HTTPMode", "SidecarMode"),
    submitterPodTemplate=_KUBERNETES,
    submitterConfig=_fields(backoffLimit=_COUNT),
    runtimeEnvYAML=_TEXT,
    jobId=_TEXT,
    metadata=_TEXTS,
    entrypointNumCpus=_NUMBER,
    entrypointNumGpus=_NUMBER,
    entrypointResources=_TEXT,
    activeDeadlineSeconds=_COUNT | {"minimum": 1},
    backoffLimit=_COUNT,
    shutdownAfterJobFinishes=_FLAG,
    ttlSecondsAfterFinished=_COUNT,
    suspend=_FLAG,
)
SCHEMAS = {
    kind: _fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=_KUBERNETES,
        spec=spec,
    )
    for kind, spec in (("RayCluster", _CLUSTER), ("RayJob", _JOB))
}
"""By kind."""


def refusals(job: dict[str, Any]) -> list[str]:
    """Why KubeRay's operator or Kueue's webhook would not take a RayJob that fits its schema."""
    spec, found = job["spec"], []
    cluster, mode = spec.get("rayClusterSpec"), spec.get("submissionMode", "K8sJobMode")
    ends = spec.get("shutdownAfterJobFinishes", False)
    if len(job["metadata"]["name"]) > 47:
        found.append("the name has more than 47 characters")
    if bool(cluster) == bool(spec.get("clusterSelector")):
        found.append("one of rayClusterSpec and clusterSelector")
    if spec.get("clusterSelector") and spec.get("backoffLimit"):
        found.append("backoffLimit beside clusterSelector")
    if spec.get("ttlSecondsAfterFinished") and not ends:
        found.append("ttlSecondsAfterFinished without shutdownAfterJobFinishes")
    if mode == "HTTPMode" and "submitterPodTemplate" in spec:
        found.append("HTTPMode has no submitter")
    if "kueue.x-k8s.io/queue-name" in job["metadata"].get("labels", {}):
        if not ends:
            found.append("Kueue: the cluster outlives the job")
        if not cluster or cluster.get("enableInTreeAutoscaling"):
            found.append("Kueue: the cluster scales itself, or is shared")
        if cluster and len(cluster["workerGroupSpecs"]) > 7:
            found.append("Kueue: more than seven groups of workers")
    return found
