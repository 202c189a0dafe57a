"""The Kubernetes manifests: the `restricted` profile's rules on every pod, and names that fit together."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from backupctl.__main__ import VERBS
from backupd.config.policies import load

FOLDER = Path(__file__).resolve().parents[2] / "deploy/kubernetes"
MANIFESTS: dict[str, list[dict[str, Any]]] = {
    path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(FOLDER.glob("*.yaml"))
}
SAFE_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def _one(name: str) -> dict[str, Any]:
    (found,) = MANIFESTS[name]
    return found


PODS: dict[str, dict[str, Any]] = {
    "deployment": _one("deployment.yaml")["spec"]["template"],
    "cronjob": _one("cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"],
}
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS.keys())


@each_pod
def test_pods_are_restricted(pod: dict[str, Any]) -> None:
    """Pod Security Standards, `restricted`: each of its rules; and more: a read-only root, no token, a memory limit."""
    spec = pod["spec"]
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert spec["automountServiceAccountToken"] is False
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 10001
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not security.get("sysctls")
    assert [v for v in spec["volumes"] if (v.keys() - {"name"}) - SAFE_VOLUMES] == []
    for container in spec["containers"] + spec.get("initContainers", []):
        own = container["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", []))
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


@each_pod
def test_pods_get_the_keys_of_the_night_as_plain_files(pod: dict[str, Any]) -> None:
    """write.key and check.key and no other, each mounted by itself (a link would be refused), readable for the group alone."""
    spec = pod["spec"]
    (container,) = spec["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    keys = {path: mount for path, mount in mounts.items() if path.endswith(".key")}
    assert {Path(path).name for path in keys} == {"write.key", "check.key"}
    folder = {env["name"]: env.get("value") for env in container["env"]}["CREDENTIALS_DIRECTORY"]
    for path, mount in keys.items():
        assert path == f"{folder}/{mount['subPath']}"
        assert mount["readOnly"] is True
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == volumes.keys()
    assert volumes["secrets"]["secret"]["defaultMode"] == 0o440
    offered = {key for secret in MANIFESTS["secret.example.yaml"] for key in secret["stringData"]}
    assert {mount["subPath"] for mount in mounts.values() if "subPath" in mount} <= offered
    assert {"/var/lib/backupd", "/var/cache/backupd", "/tmp", "/etc/backupd/policies.d"} <= mounts.keys()


def test_the_daemon_is_one_and_is_asked_how_it_is() -> None:
    """One replica, never two at once, probes on /health and /ready, and time to end its runs."""
    spec = _one("deployment.yaml")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 900
    (container,) = pod["containers"]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}
    assert container["args"][0] == "backupd"
    assert "BACKUPD_TOKEN_FILE" in {env["name"] for env in container["env"]}


def test_names_fit_together() -> None:
    """Selectors find the pods, claims and accounts exist, and the kustomization lists what is meant to be applied."""
    labels = {"app.kubernetes.io/name": "backupd"}
    for pod in PODS.values():
        assert pod["metadata"]["labels"] == labels
        assert pod["spec"]["serviceAccountName"] == _one("serviceaccount.yaml")["metadata"]["name"]
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v
        ]
        assert claims == [_one("pvc.yaml")["metadata"]["name"]]
    assert _one("service.yaml")["spec"]["selector"] == labels
    assert _one("service.yaml")["metadata"]["labels"] == labels
    assert _one("servicemonitor.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert _one("networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    assert _one("serviceaccount.yaml")["automountServiceAccountToken"] is False
    kustomization = _one("kustomization.yaml")
    left_out = {"kustomization.yaml", "secret.example.yaml", "cronjob.yaml", "servicemonitor.yaml"}
    assert set(kustomization["resources"]) == MANIFESTS.keys() - left_out
    assert kustomization["namespace"] == _one("namespace.yaml")["metadata"]["name"]
    assert _one("namespace.yaml")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_secret_is_written_down() -> None:
    """The example of a Secret has names without values, and no other manifest is one."""
    for name, documents in MANIFESTS.items():
        for document in documents:
            assert document["kind"] != "Secret" or name == "secret.example.yaml"
    assert all(set(s["stringData"].values()) == {""} and "data" not in s for s in MANIFESTS["secret.example.yaml"])


def test_the_policies_inside_are_valid(tmp_path: Path) -> None:
    """What the ConfigMap holds is valid and names only credentials that are mounted; the CronJob runs one of its policies."""
    names = set()
    for name, text in _one("configmap.yaml")["data"].items():
        file = tmp_path / name
        file.write_text(text)
        result = load([file])
        assert result.faults == []
        names |= {loaded.policy.policy for loaded in result.files}
        offered = {key for secret in MANIFESTS["secret.example.yaml"] for key in secret["stringData"]}
        assert set(re.findall(r"credential:([\w.-]+)", text)) <= offered
    program, verb, policy = PODS["cronjob"]["spec"]["containers"][0]["args"]
    assert program == "backupctl"
    assert verb in VERBS
    assert policy in names
