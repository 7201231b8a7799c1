"""Set keys of a tier in a config's text, and leave every other character as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from serve_app.config.serve_file import ROUTER_NAME
from serve_app.config.variants import SEPARATOR

WIDTH_MAX = 1_000_000
Value = str | Mapping[str, Any]


class NotEditable(Exception):
    """The layout of the text leaves no place to set a key; the message says why."""


def set_tier_keys(text: str, tier: str, path: tuple[str, ...], value: Value) -> str:
    """The text with one key of a tier set; `path` is the key, or `("engine", key)`.

    A variant has the name of its deployment, `TIER--NAME`. An existing key gets the new value and
    loses its comments. A new key goes before the first key of its map, or after `model_id`, or
    after the `tier` of a variant.

    Raises:
        NotEditable: the tier, or the map of the key, is not written in block style.
    """
    node = _find_tier(yaml.compose(text, yaml.SafeLoader), tier)
    for key in path[:-1]:
        inner = _get(node, key)
        if not isinstance(inner, yaml.MappingNode) or inner.flow_style or not inner.value:
            raise NotEditable(f"{key} of tier {tier} is not a map that is written out key by key")
        if not _spans(node, inner):
            raise NotEditable(f"{key} of tier {tier} is an alias of a map that other tiers share")
        node = inner
    return _set(text, node, path[-1], value)


def set_router_key(text: str, key: str, value: Mapping[str, Any]) -> str:
    """The text with one key of the Router's `user_config` set.

    Raises:
        NotEditable: the `user_config` is not written in block style.
    """
    for application in _items(_get(yaml.compose(text, yaml.SafeLoader), "applications")):
        for deployment in _items(_get(application, "deployments")):
            node = _get(deployment, "user_config")
            if _is_router(deployment) and isinstance(node, yaml.MappingNode) and node.value:
                if node.flow_style:
                    break
                return _set(text, node, key, value)
    raise NotEditable("the user_config of the Router is not a map that is written out key by key")


def _is_router(deployment: yaml.Node) -> bool:
    name = _get(deployment, "name")
    return isinstance(name, yaml.ScalarNode) and name.value == ROUTER_NAME


def _find_tier(root: yaml.Node | None, name: str) -> yaml.MappingNode:
    for tier in _list_tiers(root):
        if _deployed_name(tier) == name and not tier.flow_style:
            return tier
    raise NotEditable(f"tier {name} is not written out key by key")


def _deployed_name(tier: yaml.MappingNode) -> str:
    parts = (_get(tier, "tier"), _get(tier, "name"))
    return SEPARATOR.join(part.value for part in parts if isinstance(part, yaml.ScalarNode))


def _list_tiers(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    for application in _items(_get(root, "applications")):
        args = _get(application, "args")
        for tier in (*_items(_get(args, "tiers")), *_items(_get(args, "variants"))):
            if isinstance(tier, yaml.MappingNode):
                yield tier


def _items(node: yaml.Node | None) -> list[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _get(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _spans(outer: yaml.Node, inner: yaml.Node) -> bool:
    """Whether a node lies within its parent; an alias refers to a node that lies elsewhere."""
    starts = bool(outer.start_mark.index <= inner.start_mark.index)
    return starts and bool(inner.end_mark.index <= outer.end_mark.index)


def _set(text: str, node: yaml.MappingNode, key: str, value: Value) -> str:
    lines = text.splitlines(keepends=True)
    first = node.value[0][0].start_mark
    indent = " " * first.column
    for name, old in node.value:
        if name.value == key:
            if not _spans(node, old):
                raise NotEditable(f"{key} is an alias; write its value out")
            begin, end = name.start_mark.line, _last_line(old)
            lines[begin : end + 1] = _render(indent, key, value)
            return "".join(lines)
    after = _get(node, "model_id") or _get(node, "tier")
    at = first.line if after is None else _last_line(after) + 1
    lines[at:at] = _render(indent, key, value)
    return "".join(lines)


def _last_line(node: yaml.Node) -> int:
    """The last line of a value.

    A block map ends where the next token begins, which may be several lines further on.
    """
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _last_line(node.value[-1][1])
    return int(node.end_mark.line)


def _render(indent: str, key: str, value: Value) -> list[str]:
    if isinstance(value, str):
        return [f"{indent}{key}: {_quote(value)}\n"]
    if not all(isinstance(item, str) for item in value.values()):
        dumped: str = yaml.safe_dump({key: dict(value)}, sort_keys=False, width=WIDTH_MAX)
        return [f"{indent}{line}" for line in dumped.splitlines(keepends=True)]
    rows = [f"{indent}  {_quote(name)}: {_quote(value[name])}\n" for name in sorted(value)]
    return [f"{indent}{key}:\n", *rows]


def _quote(text: str) -> str:
    """The text in double quotes and on one line, whatever characters it has."""
    dumped: str = yaml.safe_dump(text, default_style='"', width=WIDTH_MAX)
    return dumped.rstrip("\n")
