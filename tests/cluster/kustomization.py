"""As much of kustomize as `cluster/kuberay` uses, so that its tests need no tool."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

KUBERAY = Path(__file__).parents[2] / "cluster/kuberay"


def load_all(path: Path) -> list[Any]:
    """Every document of a YAML file, free of shared parts."""
    return [copy.deepcopy(item) for item in yaml.safe_load_all(path.read_text()) if item]


def build(folder: Path, *components: str) -> list[Object]:
    """The objects of a kustomization: its resources, components, patches and images, in this order.

    `components` are more of them, as its own file holds in a comment.
    """
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    objects: list[Object] = []
    for name in settings.get("resources", []):
        path = folder / name
        objects += build(path.resolve()) if path.is_dir() else load_all(path)
    for name in (*settings.get("components", []), *components):
        objects = _add(folder / name, objects)
    _apply(settings, folder, objects)
    return objects


def _add(component: Path, objects: list[Object]) -> list[Object]:
    settings = yaml.safe_load((component / "kustomization.yaml").read_text())
    added = [item for name in settings.get("resources", []) for item in load_all(component / name)]
    _apply(settings, component, [*objects, *added])
    return [*objects, *added]


def _apply(settings: Object, folder: Path, objects: list[Object]) -> None:
    maps = settings.get("configMapGenerator", [])
    objects.extend({"apiVersion": "v1", "kind": "ConfigMap", "metadata": m} for m in maps)
    for item in settings.get("patches", []):
        (patch,) = load_all(folder / item["path"])
        target = item.get("target") or {"kind": patch["kind"], "name": patch["metadata"]["name"]}
        found = [o for o in objects if (o["kind"], o["metadata"]["name"]) == tuple(target.values())]
        assert len(found) == 1, f"{item['path']} patches {len(found)} objects"
        if isinstance(patch, list):
            patch_json(found[0], patch)
        else:
            merge(found[0], patch)
    if namespace := settings.get("namespace"):
        for item in objects:
            if item["kind"] != "Namespace":
                item["metadata"]["namespace"] = namespace
    for image in settings.get("images", []):
        for item in objects:
            for container in find_containers(item):
                if container["image"] == image["name"]:
                    name = image.get("newName", image["name"])
                    container["image"] = f"{name}:{image['newTag']}"


def merge(into: Object, patch: Object) -> None:
    """Maps by key, all else as a whole: how kustomize patches kinds that it does not know."""
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def patch_json(document: Any, operations: list[Object]) -> None:
    """`add`, `replace` and `test` of RFC 6902, on keys that the parent has or may get."""
    for operation in operations:
        *way, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        at = document
        for part in way:
            at = at[int(part)] if isinstance(at, list) else at[part]
        if operation["op"] == "test":
            assert at[last] == operation["value"], operation["path"]
        else:
            assert operation["op"] in ("add", "replace"), operation["op"]
            assert operation["op"] == "add" or last in at, operation["path"]
            at[last] = operation["value"]


def find_containers(value: Any) -> list[Object]:
    """Every container and init container below an object."""
    if isinstance(value, list):
        return [found for item in value for found in find_containers(item)]
    if not isinstance(value, dict):
        return []
    found = [*value.get("initContainers", []), *value.get("containers", [])]
    return found + [c for item in value.values() for c in find_containers(item) if c not in found]


def find_pods(value: Any) -> list[Object]:
    """Every pod template below an object."""
    if isinstance(value, list):
        return [found for item in value for found in find_pods(item)]
    if not isinstance(value, dict):
        return []
    here = [value["template"]] if "containers" in value.get("template", {}).get("spec", {}) else []
    return here + [pod for item in value.values() for pod in find_pods(item)]
