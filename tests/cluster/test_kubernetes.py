"""The objects of cluster/kuberay: what must hold of them before any cluster sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config.reader import read_serve_config
from serve_app.deploy.pools import plan_machines, plan_pods
from serve_app.offline.manifests.pools import drain_s
from serve_app.offline.planning.cost import plan_pool
from tests.cluster.found import some
from tests.cluster.kustomization import (
    KUBERAY,
    Object,
    build,
    find_containers,
    find_pods,
    load_all,
    merge,
)

ROOT = Path(__file__).parents[2]
PROD = read_serve_config(ROOT / "configs/prod.yaml").app
VERSIONS = {
    "ConfigMap": "v1",
    "Job": "batch/v1",
    "Namespace": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PersistentVolumeClaim": "v1",
    "PodDisruptionBudget": "policy/v1",
    "RayService": "ray.io/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "StatefulSet": "apps/v1",
}
PART_OF = {"app.kubernetes.io/part-of": "serve-app"}


COMPONENTS = ("../../components/incremental-upgrade",)

SETS = {
    "dev": build(KUBERAY / "overlays/dev"),
    "prod": build(KUBERAY / "overlays/prod"),
    "prod-ha": build(KUBERAY / "overlays/prod-ha"),
    "models": build(KUBERAY / "models"),
    "everything": build(KUBERAY / "overlays/prod", *COMPONENTS),
}
every_set = pytest.mark.parametrize("name", SETS)
every_service = pytest.mark.parametrize("name", ["dev", "prod", "prod-ha", "everything"])


def one(name: str, kind: str, called: str) -> Object:
    (found,) = [
        item for item in SETS[name] if (item["kind"], item["metadata"]["name"]) == (kind, called)
    ]
    return found


def ray_service(name: str) -> Object:
    spec: Object = one(name, "RayService", "serve-app")["spec"]
    return spec


def pods_of(name: str) -> list[Object]:
    """The pod templates of a set."""
    return some(pod for item in SETS[name] for pod in find_pods(item))


def containers_of(name: str) -> list[Object]:
    """The containers of a set, its init containers included."""
    return some(container for item in SETS[name] for container in find_containers(item))


def ray_pods(name: str) -> list[Object]:
    """The head's pod template and one of each worker group."""
    pods = find_pods(ray_service(name))
    assert len(pods) == 1 + len(groups(name))
    return pods


def groups(name: str) -> list[Object]:
    found: list[Object] = ray_service(name)["rayClusterConfig"].get("workerGroupSpecs", [])
    return found


@pytest.mark.parametrize("path", sorted(KUBERAY.rglob("*.yaml")), ids=lambda p: p.name)
def test_every_file_parses_and_is_used(path: Path) -> None:
    """A file that no kustomization names would be one that nobody applies."""
    assert load_all(path)
    if path.name != "kustomization.yaml":
        assert path.name in (path.parent / "kustomization.yaml").read_text()


@every_set
def test_objects_have_their_kind_and_one_name(name: str) -> None:
    """The API version is the kind's, and no two of a kind have one name."""
    names = [(item["kind"], item["metadata"]["name"]) for item in SETS[name]]
    assert len(set(names)) == len(names)
    assert {item["kind"]: item["apiVersion"] for item in SETS[name]}.items() <= VERSIONS.items()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which builds offline")
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("overlays/dev", "dev"),
        ("overlays/prod", "prod"),
        ("overlays/prod-ha", "prod-ha"),
        ("overlays/prod", "everything"),
    ],
)
def test_kustomize_builds_the_same(tmp_path: Path, folder: str, name: str) -> None:
    """What these tests look at is what kubectl would apply, ConfigMaps' hashes apart."""
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    path = tmp_path / "kuberay" / folder / "kustomization.yaml"
    if name == "everything":
        path.write_text(re.sub("^  # (- )", r"  \1", path.read_text(), flags=re.M))
    command = ["kubectl", "kustomize", str(path.parent)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    built = {
        (item["kind"], item["metadata"]["name"]): item
        for item in yaml.safe_load_all(result.stdout)
        if item["kind"] != "ConfigMap"
    }
    for item in SETS[name]:
        if item["kind"] != "ConfigMap":
            other = built.pop((item["kind"], item["metadata"]["name"]))
            assert without_hash(other) == without_hash(item)
    assert built == {}


def without_hash(item: Object) -> Object:
    """The same with ConfigMaps by their plain names, and accounts without their namespace."""
    text = yaml.safe_dump(item)
    for container in find_containers(item):
        for source in container.get("envFrom", []):
            text = text.replace(source["configMapRef"]["name"], "ray-environment")
    plain: Object = yaml.safe_load(text)
    for subject in plain.get("subjects", []):
        subject.pop("namespace", None)
    return plain


@every_set
def test_containers_are_hardened(name: str) -> None:
    """No root, no new privileges, no capabilities, a root file system that is not written to."""
    for pod in pods_of(name):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers_of(name):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@every_set
def test_containers_have_resources_and_a_pinned_image(name: str) -> None:
    """Memory is bounded, CPU is asked for, and no tag moves."""
    for container in containers_of(name):
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"]), container["name"]
        assert "memory" in resources["limits"]
        tag = container["image"].rpartition(":")[2]
        assert tag not in ("", "latest", container["image"]), container["image"]


@every_set
def test_volumes_are_there_and_bounded(name: str) -> None:
    """Every mount has a volume, every volume a mount, and every emptyDir a size."""
    bounded = 0
    for item in SETS[name]:
        templates = item["spec"].get("volumeClaimTemplates", []) if "spec" in item else []
        claims = {template["metadata"]["name"] for template in templates}
        for pod in find_pods(item):
            volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
            mounts = {m["name"] for c in find_containers(pod) for m in c.get("volumeMounts", [])}
            assert mounts == set(volumes) | claims
            for volume in volumes.values():
                assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": None})
                bounded += "emptyDir" in volume
    assert bounded, "every set has a pod that needs room to write"


@every_service
def test_every_ray_node_has_shared_memory_of_its_own(name: str) -> None:
    """64 MB, a container's default, end Ray's object store and NCCL."""
    for pod in ray_pods(name):
        (volume,) = [v for v in pod["spec"]["volumes"] if v["name"] == "shm"]
        assert volume["emptyDir"]["medium"] == "Memory"
        (container,) = pod["spec"]["containers"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


@every_set
def test_probes_and_policies_name_ports_that_exist(name: str) -> None:
    """Ports are named, and whatever points at one finds it."""
    named: set[str] = set()
    asked: set[str] = set()
    for container in containers_of(name):
        ports = {port["name"] for port in container.get("ports", [])}
        probed = set(ports_of_probes(container))
        assert probed <= ports
        named |= ports
        asked |= probed
    for item in SETS[name]:
        if item["kind"] == "NetworkPolicy":
            rules = item["spec"].get("ingress", [])
            asked |= {port["port"] for rule in rules for port in rule.get("ports", [])}
        if item["kind"] == "Service":
            asked |= {port["targetPort"] for port in item["spec"]["ports"]}
    assert asked <= named
    # A job that fills a volume has no port; whatever serves has one.
    assert bool(asked) == (name != "models")


def ports_of_probes(container: Object) -> Iterator[str]:
    """The ports that a container's probes ask by HTTP or TCP."""
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        for how in ("httpGet", "tcpSocket"):
            if (port := container.get(probe, {}).get(how, {}).get("port")) is not None:
                yield port


@every_service
def test_every_ray_container_is_probed(name: str) -> None:
    """A node that hangs is replaced, and gets calls only when it answers."""
    for pod in ray_pods(name):
        (container,) = pod["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


@every_set
def test_selectors_match_pods_of_the_set(name: str) -> None:
    """A policy or budget that selects nothing protects nothing."""
    added = {
        "ray.io/node-type": {"head", "worker"},
        "ray.io/group": {g["groupName"] for g in groups_of(name)},
    }
    pods = [pod["metadata"]["labels"] for pod in pods_of(name)]
    selected = 0
    for item in SETS[name]:
        selector = item.get("spec", {}).get("podSelector") or item.get("spec", {}).get("selector")
        if item["kind"] == "RayService" or not isinstance(selector, dict):
            continue
        labels = selector.get("matchLabels", selector if item["kind"] == "Service" else {})
        own = {key: value for key, value in labels.items() if key not in added}
        assert any(own.items() <= pod.items() for pod in pods), item["metadata"]["name"]
        assert all(value in added[key] for key, value in labels.items() if key in added)
        selected += bool(labels)
    assert selected


def groups_of(name: str) -> list[Object]:
    return [] if name == "models" else groups(name)


@every_service
def test_the_network_is_closed_but_for_what_is_named(name: str) -> None:
    """All pods are closed first; the public port is for callers, the rest for Ray and operators."""
    policies = {
        i["metadata"]["name"]: i["spec"] for i in SETS[name] if i["kind"] == "NetworkPolicy"
    }
    both = ["Ingress", "Egress"]
    assert policies["closed"] == {"podSelector": {}, "policyTypes": both}
    assert policies["callers"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": "serve"}]
    anybody = [{"podSelector": {"matchLabels": PART_OF}}]
    for rule in some(rule for spec in policies.values() for rule in spec.get("ingress", [])):
        assert rule["from"] == anybody or rule["ports"]
    for rule in some(rule for spec in policies.values() for rule in spec.get("egress", [])):
        assert "0.0.0.0/0" not in [peer.get("ipBlock", {}).get("cidr") for peer in some(rule["to"])]


@every_set
def test_no_secret_is_in_a_file(name: str) -> None:
    """Secrets are named, and made by hand."""
    assert "Secret" not in {item["kind"] for item in SETS[name]}


@every_service
def test_ray_asks_for_a_token(name: str) -> None:
    """From the Secret that the instructions make."""
    options = ray_service(name)["rayClusterConfig"]["authOptions"]
    assert options == {"mode": "token", "secretName": "ray-auth"}
    text = (ROOT / "cluster/README.md").read_text()
    assert "create secret generic ray-auth --from-literal=auth_token=" in text


@every_service
def test_service_accounts_may_do_little(name: str) -> None:
    """Workers get no token; the head's may read pods and resize its cluster, nothing more."""
    roles = [item for item in SETS[name] if item["kind"] in ("Role", "ClusterRole")]
    (role,) = roles
    assert role["kind"] == "Role"
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "patch"]},
    ]
    binding = one(name, "RoleBinding", "ray-autoscaler")
    assert [subject["name"] for subject in binding["subjects"]] == ["ray-head"]
    accounts = {i["metadata"]["name"] for i in SETS[name] if i["kind"] == "ServiceAccount"}
    for group in groups(name):
        spec = group["template"]["spec"]
        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == (
            "ray-worker",
            False,
        )
    assert accounts == {"ray-head", "ray-worker"}


@every_service
def test_the_deployed_config_loads(tmp_path: Path, name: str) -> None:
    """It is a config of ours, and listens where the container's port is."""
    path = tmp_path / "serve.yaml"
    path.write_text(ray_service(name)["serveConfigV2"])
    config = read_serve_config(path)
    (head,) = ray_service(name)["rayClusterConfig"]["headGroupSpec"]["template"]["spec"][
        "containers"
    ]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    assert config.document["http_options"]["port"] == ports["serve"]
    assert config.document["http_options"]["host"] == "0.0.0.0"


def test_ray_is_the_version_of_the_project() -> None:
    """KubeRay chooses its commands by it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = (item for item in project["optional-dependencies"]["gpu"] if item.startswith("ray["))
    version = ray_service("prod")["rayClusterConfig"]["rayVersion"]
    assert pin == f"ray[llm]=={version}"


def test_every_ray_process_has_the_environment() -> None:
    """All nodes alike, by one ConfigMap."""
    for pod in ray_pods("prod"):
        (container,) = pod["spec"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "ray-environment"}}]


def test_worker_groups_are_the_pools_of_the_config() -> None:
    """By name, size, label and resources; and the pod has what Ray is told that it has."""
    for group, pool in some(zip(groups("prod"), plan_pods(PROD), strict=True)):
        assert group["groupName"] == pool.name
        assert (group["minReplicas"], group["maxReplicas"]) == (pool.nodes_min, pool.nodes_max)
        assert group["labels"] == {"pool": pool.name}
        assert group["resources"] == {key: str(value) for key, value in pool.resources.items()}
        spec = group["template"]["spec"]
        wanted = {"serve-app/gpu": "H100"} if pool.gpus else None
        assert spec.get("nodeSelector") == wanted
        assert spec["tolerations"]
        (container,) = spec["containers"]
        assert int(container["resources"]["requests"]["cpu"]) > pool.cpus
        for side in ("requests", "limits"):
            assert container["resources"][side].get("nvidia.com/gpu", 0) == pool.gpus
            assert container["resources"][side]["memory"] == f"{pool.memory_gib}Gi"


def test_kubernetes_holds_the_gpus_that_plan_counts() -> None:
    """Six at the fewest, as `serve-app plan` says, and all of them fit its one node of eight."""
    held = sum(
        group["minReplicas"] * int(group["resources"].get("GPU", 0)) for group in groups("prod")
    )
    pool = plan_pool("H100", 1, 8, PROD.tiers)
    assert held == pool.gpus_min == 6
    assert (pool.min_fits, pool.nodes_for_min) == (True, 1)
    [machines] = plan_machines(PROD)
    assert machines.nodes_max == pool.nodes_for_max


@pytest.mark.parametrize(
    ("name", "apart"),
    [("prod", {"router": 1}), ("prod-ha", {"fast": 2, "strong": 1, "router": 1})],
)
def test_pods_are_spread_over_machines(name: str, apart: dict[str, int]) -> None:
    """Evenly where there is room; by the config's bounds, or they wait. An upgrade counts anew."""
    bounds = {}
    for group in some(groups(name)):
        *hard, evenly = group["template"]["spec"]["topologySpreadConstraints"]
        assert (evenly["maxSkew"], evenly["whenUnsatisfiable"]) == (1, "ScheduleAnyway")
        for spread in (*hard, evenly):
            assert spread["topologyKey"] == "kubernetes.io/hostname"
            assert spread["labelSelector"]["matchLabels"] == {"ray.io/group": group["groupName"]}
            assert spread["matchLabelKeys"] == ["ray.io/cluster"]
        for spread in hard:
            assert spread["whenUnsatisfiable"] == "DoNotSchedule"
            bounds[group["groupName"]] = spread["maxSkew"]
    assert bounds == apart


def test_disruption_budgets_hold_the_least_nodes() -> None:
    """As many as the config's least replicas need."""
    for pool in some(plan_pods(PROD)):
        budget = one("prod", "PodDisruptionBudget", f"ray-{pool.name}")["spec"]
        assert budget["minAvailable"] == pool.nodes_min
        assert budget["selector"]["matchLabels"]["ray.io/group"] == pool.name
    assert one("prod", "PodDisruptionBudget", "ray-head")["spec"]["minAvailable"] == 1


def test_streams_may_end_before_a_pod_does() -> None:
    """The hook waits for the longest drain, and Kubernetes for the hook."""
    for group in some(groups("prod")):
        spec = group["template"]["spec"]
        *command, wait_s = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["serve-app", "drain-node", "--wait-s"]
        assert spec["terminationGracePeriodSeconds"] > int(wait_s) >= drain_s(PROD)
    assert ray_service("prod")["rayClusterDeletionDelaySeconds"] >= drain_s(PROD)


def test_workers_mount_what_the_models_job_fills() -> None:
    """The same claim and list, read-only, in the same namespace; no model is left out."""
    assert one("models", "PersistentVolumeClaim", "models")["spec"]["accessModes"] == [
        "ReadWriteMany"
    ]
    *tiers, router = groups("prod")
    assert "initContainers" not in router["template"]["spec"]
    for group in some(tiers):
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        claim = volumes["models"]["persistentVolumeClaim"]
        assert claim == {"claimName": "models", "readOnly": True}
        assert volumes["models-list"]["configMap"] == {"name": "models-list"}
    namespaces = {item["metadata"]["namespace"] for item in SETS["models"]}
    assert namespaces == {one("prod", "Namespace", "serve-app")["metadata"]["name"]}
    listed = (KUBERAY / "models/models.txt").read_text()
    served = yaml.safe_load(ray_service("prod")["serveConfigV2"])
    for tier in some(served["applications"][0]["args"]["tiers"]):
        assert f" {tier['model_source']}\n" in listed


def test_each_node_keeps_what_its_engines_compile() -> None:
    """A directory of the node's own, made first by the pod's user, where vLLM and Triton look."""
    claim = one("prod", "PersistentVolumeClaim", "compile-cache")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    engines_groups = [one for one in groups("prod") if one["groupName"] != "router"]
    for group in some(engines_groups):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["compile-cache"]["persistentVolumeClaim"] == {"claimName": "compile-cache"}
        makes = {item["name"]: item for item in pod["initContainers"]}["compile-cache"]
        assert makes["command"][-1] == 'mkdir -p "/compile-cache/$NODE_NAME"'
        (engines,) = pod["containers"]
        mounts = {mount["mountPath"]: mount for mount in engines["volumeMounts"]}
        assert mounts["/home/ray/.cache"]["subPathExpr"] == "$(NODE_NAME)"
        for container in (makes, engines):
            (variable,) = container["env"]
            assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def test_namespaces_enforce_the_strictest_profile() -> None:
    """Kubernetes itself refuses a pod that gives up what is asked for above."""
    spaces = (("dev", "serve-app-dev"), ("prod", "serve-app"), ("prod-ha", "serve-app"))
    for name, called in spaces:
        labels = one(name, "Namespace", called)["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_upgrade_is_blue_green_and_by_choice_in_steps() -> None:
    """The component changes the strategy alone."""
    assert ray_service("prod")["upgradeStrategy"] == {"type": "NewCluster"}
    strategy = ray_service("everything")["upgradeStrategy"]
    assert strategy["type"] == "NewClusterWithIncrementalUpgrade"
    assert ray_service("prod")["rayClusterConfig"]["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize("name", ["prod", "prod-ha"])
def test_redis_is_asked_by_its_name_and_password(name: str) -> None:
    """Ray's address is the Service's, and both read one Secret."""
    options = ray_service(name)["rayClusterConfig"]["gcsFaultToleranceOptions"]
    service = one(name, "Service", "redis")
    assert options["redisAddress"] == f"redis:{service['spec']['ports'][0]['port']}"
    (container,) = find_containers(one(name, "StatefulSet", "redis"))
    (variable,) = container["env"]
    assert variable["valueFrom"] == options["redisPassword"]["valueFrom"]


@pytest.mark.parametrize("name", ["prod", "prod-ha"])
def test_routers_find_the_secrets_that_their_config_names(name: str) -> None:
    """In the pods of Routers only: the pepper, and the password of the Redis with the keys."""
    [application] = yaml.safe_load(ray_service(name)["serveConfigV2"])["applications"]
    [router] = [one for one in application["deployments"] if one["name"] == "Router"]
    keys = router["user_config"]["access"]["keys"]
    service = one(name, "Service", "redis")
    assert f"//redis:{service['spec']['ports'][0]['port']}/" in keys["redis"]["url"]
    for group in ray_service(name)["rayClusterConfig"]["workerGroupSpecs"]:
        spec = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        if group["groupName"] != "router":
            assert "secrets" not in volumes
            continue
        (container,) = spec["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        sources = [source["secret"] for source in volumes["secrets"]["projected"]["sources"]]
        paths = [item["path"] for source in sources for item in source.get("items", [])]
        assert keys["redis"]["password"]["file"] == f"{mounted['secrets']}/{paths[0]}"
        assert keys["pepper"]["file"] == f"{mounted['secrets']}/pepper"


def test_merging_replaces_lists_and_keeps_other_keys() -> None:
    """The rule by which overlays/prod/workers.yaml comes in."""
    into: dict[str, Any] = {"a": {"b": [1], "c": 2}}
    merge(into, {"a": {"b": [3]}})
    assert into == {"a": {"b": [3], "c": 2}}
