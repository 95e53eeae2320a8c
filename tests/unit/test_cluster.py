"""What `cluster/` holds fits the programs that read it, and the code it is about."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from mrkd import __version__
from tests.support.kuberay import SCHEMAS

TOP = Path(__file__).parents[2]
CLUSTER = TOP / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
PINS = dict(
    line.split("==")
    for line in (CLUSTER / "constraints.txt").read_text().splitlines()
    if "==" in line
)


def documents(path):
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def everything():
    return [(path.name, one) for path in MANIFESTS for one in documents(path)]


def pod_templates(one):
    """The pods that a manifest makes."""
    spec = one.get("spec", {})
    match one["kind"]:
        case "RayCluster":
            groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
            return [group["template"] for group in groups]
        case "RayJob":
            return [spec["submitterPodTemplate"]]
        case "CronJob":
            return [spec["jobTemplate"]["spec"]["template"]]
    return []


each_manifest = pytest.mark.parametrize(
    ("file", "one"), everything(), ids=lambda value: value if isinstance(value, str) else ""
)


def validate(content):
    kubernetes_validate.validate(content, "1.34", strict=True)


@each_manifest
def test_manifests_fit_the_schemas_of_kubernetes_and_kuberay(file, one):
    if one["apiVersion"] != "ray.io/v1":
        validate(one)
        return
    jsonschema.validate(one, SCHEMAS[one["kind"]])
    for template in pod_templates(one):
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
        validate(whole | {"template": template})


def test_a_misspelt_field_of_a_pod_does_not_pass():
    (night,) = documents(CLUSTER / "kuberay" / "night.yaml")
    (pod,) = pod_templates(night)
    pod["spec"]["restartPolcy"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(night)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("autoscalerOptions", "idleTimeoutSecond"), 300),
        (("autoscalerOptions", "version"), "v3"),
        (("authOptions", "mode"), "tokens"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("workerGroupSpecs", 0, "maxReplicas"), "4"),
    ],
)
def test_a_cluster_that_kuberay_would_not_take_does_not_pass(place, value):
    (cluster,) = (one for _, one in everything() if one["kind"] == "RayCluster")
    inner = cluster["spec"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, SCHEMAS["RayCluster"])


@each_manifest
def test_no_pod_has_more_rights_than_it_needs(file, one):
    for template in pod_templates(one):
        for container in template["spec"]["containers"]:
            context = container["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            for variable in container.get("env", ()):
                secret = "TOKEN" in variable["name"] or "SECRET" in variable["name"]
                assert not (secret and "value" in variable), variable["name"]


def test_versions_are_those_that_are_tested():
    (cluster,) = (one for _, one in everything() if one["kind"] == "RayCluster")
    assert cluster["spec"]["rayVersion"] == PINS["ray"]
    images = [
        container["image"]
        for _, one in everything()
        for template in pod_templates(one)
        for container in template["spec"]["containers"]
    ]
    images += [yaml.safe_load(path.read_text())["docker"]["image"] for path in UP]
    assert {image.rpartition(":")[2] for image in images} == {__version__}


UP = sorted((CLUSTER / "ray_up").glob("*.yaml"))


@pytest.mark.parametrize("path", UP, ids=lambda path: path.stem)
def test_clusters_of_ray_up_fit_ray_s_own_schema(path):
    ray = Path(importlib.util.find_spec("ray").origin).parent
    schema = json.loads((ray / "autoscaler" / "ray-schema.json").read_text())
    content = yaml.safe_load(path.read_text())
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"head_start_ray_comands": []}, schema)
    assert "RAY_AUTH_MODE=token" in " ".join(content["docker"]["run_options"])
    assert "--dashboard-host=127.0.0.1" in " ".join(content["head_start_ray_commands"])


@pytest.mark.parametrize("path", sorted((CLUSTER / "iam").glob("*.json")), ids=lambda p: p.stem)
def test_policies_name_each_action_and_stay_below_one_bucket(path):
    policy = json.loads(path.read_text())
    assert policy["Version"] == "2012-10-17"
    actions = [action for one in policy["Statement"] for action in one["Action"]]
    assert all(re.fullmatch(r"s3:[A-Za-z]+", action) for action in actions)
    resources = [where for one in policy["Statement"] for where in one["Resource"]]
    assert all(re.fullmatch(r"arn:aws:s3:::plant(/\w+/\*)?", where) for where in resources)
    if path.stem == "archive-read":
        assert set(actions) == {"s3:ListBucket", "s3:GetObject"}


def test_the_dashboard_shows_gauges_that_there_are_and_all_of_them():
    page = json.loads((CLUSTER / "monitoring" / "grafana.json").read_text())
    shown = {
        name
        for panel in page["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bray_(mrkd_\w+)", target["expr"])
    }
    code = "".join(path.read_text() for path in (TOP / "mrkd" / "runs").rglob("*.py"))
    kinds = re.findall(r'super\(\).__init__\(run, "(\w+)", "(\w+)"', code)
    assert {noun for noun, _ in kinds} == {"night", "fleet"}
    known = {f"mrkd_{noun}_{units}" for noun, units in kinds}
    known |= {f"mrkd_{noun}_eta_seconds" for noun, _ in kinds}
    known |= {f"mrkd_training_{name}" for name in ("loss", "validation_loss", "step")}
    assert shown == known
    for form in ("mrkd_{noun}_{units}", "mrkd_{noun}_eta_seconds", "mrkd_training_{name}"):
        assert f'f"{form}"' in code


def test_prometheus_looks_for_the_port_and_the_label_that_the_cluster_has():
    config = yaml.safe_load((CLUSTER / "monitoring" / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    label, port = job["relabel_configs"][0]["regex"].split(";")
    (cluster,) = (one for _, one in everything() if one["kind"] == "RayCluster")
    assert label == cluster["metadata"]["name"]
    for template in pod_templates(cluster):
        (container,) = template["spec"]["containers"]
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        assert port in ports
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    told = {group["rayStartParams"]["metrics-export-port"] for group in groups}
    assert told == {str(ports[port])}


def test_the_dockerfile_keeps_hadolint_s_rules():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, CLUSTER / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_image_copies_is_what_its_ignore_file_lets_through():
    text = (CLUSTER / "Dockerfile").read_text()
    copied = {
        word
        for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    }
    kept = {
        line[1:]
        for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert copied == kept
    assert all((TOP / name).exists() for name in copied)
