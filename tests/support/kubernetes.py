"""Kubernetes without a cluster: manifests as kustomize renders them, and rules read as it does."""

from __future__ import annotations

import functools
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Manifest = dict[str, Any]
LOOPBACK = ip_address("127.0.0.1")
KUBECTL = Path(sys.executable).with_name("kubectl")


@functools.cache
def _rendered(folder: Path) -> str:
    done = subprocess.run(
        [KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(folder: Path) -> list[Manifest]:
    """The manifests of a folder with a kustomization."""
    return [one for one in yaml.safe_load_all(_rendered(folder)) if one]


def of_kind(manifests: Iterable[Manifest], kind: str) -> dict[str, Manifest]:
    """The manifests of one kind, by name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector, or the terms of a node affinity, match labels."""

    def holds(rule: Mapping[str, Any]) -> bool:
        value = labels.get(rule["key"])
        match rule["operator"]:
            case "In":
                return value in rule["values"]
            case "NotIn":
                return value not in rule["values"]
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
        raise ValueError(rule["operator"])

    exact = selector.get("matchLabels", {}).items()
    rules = selector.get("matchExpressions", ())
    return all(labels.get(key) == value for key, value in exact) and all(map(holds, rules))


def may_run_on(pod: Manifest, labels: Mapping[str, str], taints: Sequence[Manifest] = ()) -> bool:
    """Whether a pod's spec lets it onto a node with such labels and taints."""
    affinity = pod.get("affinity", {}).get("nodeAffinity", {})
    needed = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = needed.get("nodeSelectorTerms", [{}])

    def tolerated(taint: Manifest) -> bool:
        return any(
            one["key"] == taint["key"]
            and one.get("effect") in (None, taint["effect"])
            and (one["operator"] == "Exists" or one.get("value") == taint.get("value"))
            for one in pod.get("tolerations", ())
        )

    return (
        all(labels.get(key) == value for key, value in pod.get("nodeSelector", {}).items())
        and any(selects(term, labels) for term in terms)
        and all(map(tolerated, taints))
    )


@dataclass(frozen=True)
class Place:
    """One end of a connection.

    Args:
        namespace: a pod's namespace; empty outside of the cluster.
        labels: the pod's labels.
    """

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def is_admitted(
    policies: Iterable[Manifest], source: Place, target: Place, port: int, protocol: str = "TCP"
) -> bool:
    """Whether network policies let a connection through, at its source and at its target."""
    policies = list(policies)
    return _passes(policies, source, target, port, protocol, "Egress") and _passes(
        policies, target, source, port, protocol, "Ingress"
    )


def _passes(
    policies: Sequence[Manifest],
    pod: Place,
    other: Place,
    port: int,
    protocol: str,
    direction: str,
) -> bool:
    side, peers = direction.lower(), "to" if direction == "Egress" else "from"
    own = [
        one["spec"]
        for one in policies
        if one["metadata"]["namespace"] == pod.namespace
        and selects(one["spec"]["podSelector"], pod.labels)
        and direction in one["spec"]["policyTypes"]
    ]
    if not own:
        return True  # no policy is about it

    def is_peer(peer: Manifest) -> bool:
        if "ipBlock" in peer or not other.namespace:
            return False
        named = {"kubernetes.io/metadata.name": other.namespace}
        spaces = peer.get("namespaceSelector")
        in_space = selects(spaces, named) if spaces else other.namespace == pod.namespace
        return in_space and selects(peer.get("podSelector", {}), other.labels)

    def is_port(one: Manifest) -> bool:
        return one["port"] == port and one["protocol"] == protocol

    return any(
        (peers not in rule or any(map(is_peer, rule[peers])))
        and ("ports" not in rule or any(map(is_port, rule["ports"])))
        for spec in own
        for rule in spec.get(side, ())
    )


@dataclass
class Api:
    """A Kubernetes API of RayJobs on loopback, by TLS.

    Attributes:
        url: its address.
        account: folder of a pod's account: token, namespace, certificate.
        jobs: the RayJobs that were created, by name.
        answers: statuses of successive polls, the last one for good; a number is an HTTP error.
        refusal: status of the answer to a creation; 0: it is created.
    """

    url: str
    account: Path
    jobs: dict[str, Manifest] = field(default_factory=dict)
    answers: list[Manifest | int] = field(default_factory=list)
    refusal: int = 0


def _certificate(path: Path) -> Path:
    """Makes a certificate of 127.0.0.1 that is its own authority, and its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    day = timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - day)
        .not_valid_after(datetime.now(UTC) + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (path.parent / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@contextmanager
def api(folder: Path, created: str) -> Iterator[Api]:
    """An API within a `with` block.

    Args:
        folder: folder of the account.
        created: time of creation of every job.
    """
    token = "a-token"
    for name, text in (("token", token), ("namespace", "mrkd")):
        (folder / name).write_text(text)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            job = json.loads(body)
            name = job["metadata"]["name"]
            if state.refusal or name in state.jobs:
                self._answer(state.refusal or 409, {"message": "denied"})
                return
            job["metadata"]["creationTimestamp"] = created
            state.jobs[name] = job
            self._answer(201, job)

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            answer = state.answers[0]
            if len(state.answers) > 1:
                state.answers.pop(0)
            if isinstance(answer, int):
                self._answer(answer, {})
            else:
                self._answer(200, state.jobs[name] | {"status": answer})

        def _answer(self, status: int, content: Manifest) -> None:
            right = self.headers["Authorization"] == f"Bearer {token}"
            in_space = self.path.startswith("/apis/ray.io/v1/namespaces/mrkd/rayjobs")
            self.send_response(status if right and in_space else 401)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(folder / "ca.crt"), folder / "key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        state = Api(f"https://127.0.0.1:{server.server_port}", folder)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
