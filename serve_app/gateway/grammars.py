"""Bounds on the schemas and patterns that an engine compiles into a grammar.

vLLM compiles grammars on half of a machine's CPUs, cannot stop a compilation, and keeps the
compiled grammars. So one large schema keeps the structured output of a whole replica waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import orjson

from serve_app.config.bodies import BodiesConfig, GrammarsConfig
from serve_app.core.errors import InvalidField, MalformedBody, TooMany
from serve_app.gateway.patterns import (
    OPTIONAL_REPEATS,
    REPEATS_MAX,
    Shape,
    as_ebnf,
    ends_somewhere,
    measure_grammar,
    measure_pattern,
    read_rules,
)

Json = dict[str, Any]

GRAMMAR_FIELDS = frozenset(
    {"output_config", "response_format", "structured_outputs", "text", "tools"}
)
CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
OPTIONS = frozenset(
    {"disable_additional_properties", "disable_any_whitespace", "whitespace_pattern"}
)
FORMAT_TYPES = frozenset({"json_object", "json_schema", "structural_tag", "text"})
NAMED_SCHEMAS = frozenset({"$defs", "definitions", "dependentSchemas", "properties"})
"""Keywords whose value maps names to schemas."""
ANNOTATIONS = frozenset({"$comment", "default", "description", "example", "examples", "title"})
LENGTHS = frozenset({"maxLength", "minLength"})
ITEMS = frozenset({"maxItems", "maxProperties", "minItems", "minProperties"})
PROPERTIES_PER_REPEAT = 4
COMBINATIONS = ("allOf", "anyOf", "oneOf")
FORCED_CHOICES = frozenset({"any", "required", "tool"})


def check_grammars(document: Json, config: BodiesConfig) -> None:
    """Raise BadRequest if a body asks for a grammar that is too large, wrong or endless."""
    meter = GrammarMeter(config.grammars)
    if document.get("response_format") is not None:
        _check_format(meter, document["response_format"], "response_format")
    for name in ("text", "output_config"):
        value = document.get(name)
        if value is not None and not isinstance(value, dict):
            raise InvalidField(name, "an object")
        if value and value.get("format") is not None:
            _check_format(meter, value["format"], f"{name}.format")
    if document.get("structured_outputs") is not None:
        _check_structured(meter, document["structured_outputs"], "structured_outputs")
    if document.get("tools"):
        _check_tools(meter, document)


def _check_format(meter: GrammarMeter, value: object, param: str) -> None:
    if not isinstance(value, dict):
        raise InvalidField(param, "an object")
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in FORMAT_TYPES:
        raise InvalidField(f"{param}.type", f"one of {', '.join(sorted(FORMAT_TYPES))}")
    if kind == "json_schema":
        nested = value.get("json_schema")
        if nested is not None and not isinstance(nested, dict):
            raise InvalidField(f"{param}.json_schema", "an object")
        for holder, path in ((value, param), (nested or {}, f"{param}.json_schema")):
            if holder.get("schema") is not None:
                meter.add_schema(holder["schema"], f"{path}.schema")
    elif kind == "structural_tag":
        meter.add_schema(value, param)


def _check_structured(meter: GrammarMeter, value: object, param: str) -> None:
    if not isinstance(value, dict):
        raise InvalidField(param, "an object")
    for name in value.keys() - OPTIONS - set(CONSTRAINTS):
        raise InvalidField(f"{param}.{name[:64]}", "no such key")
    given = [name for name in CONSTRAINTS if value.get(name) is not None]
    if len(given) != 1:
        raise InvalidField(param, f"exactly one of {', '.join(CONSTRAINTS)}")
    if value.get("whitespace_pattern") is not None:
        meter.add_pattern(value["whitespace_pattern"], f"{param}.whitespace_pattern")
    _check_constraint(meter, given[0], value[given[0]], f"{param}.{given[0]}")


def _check_constraint(meter: GrammarMeter, name: str, value: object, param: str) -> None:
    if name == "regex":
        meter.add_pattern(value, param)
    elif name == "grammar":
        meter.add_grammar(value, param)
    elif name == "choice":
        meter.add_choice(value, param)
    elif name == "json_object":
        if value is not True:
            raise InvalidField(param, "true")
    else:
        meter.add_schema(_parse_schema(value, param, meter.config), param)


def _parse_schema(value: object, param: str, config: GrammarsConfig) -> object:
    """A schema, which the body holds as an object or as text."""
    if not isinstance(value, str):
        return value
    if len(value) > config.schema_bytes_max:
        raise TooMany(param, "bytes", config.schema_bytes_max)
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise InvalidField(param, "valid JSON") from None


def _check_tools(meter: GrammarMeter, document: Json) -> None:
    """Check the tools that become a grammar: where a tool must be called, and where a tool is
    strict."""
    choice, tools = document.get("tool_choice"), document["tools"]
    kind = choice.get("type") if isinstance(choice, dict) else choice
    forced = isinstance(choice, dict) and kind not in ("auto", "none")
    forced = forced or (isinstance(kind, str) and kind in FORCED_CHOICES)
    for index, tool in enumerate(tools):
        for holder, path in _functions(tool, f"tools[{index}]"):
            for key in ("parameters", "input_schema"):
                if holder.get(key) is not None and (forced or holder.get("strict")):
                    meter.add_schema(holder[key], f"{path}.{key}")


def _functions(tool: object, param: str) -> Iterator[tuple[Json, str]]:
    """The functions of a tool. Chat nests a function in its tool, Responses nests tools in a
    namespace, and the other endpoints nest neither."""
    if not isinstance(tool, dict):
        raise InvalidField(param, "an object")
    yield tool, param
    function, nested = tool.get("function"), tool.get("tools")
    if isinstance(function, dict):
        yield function, f"{param}.function"
    for index, item in enumerate(nested if isinstance(nested, list) else ()):
        if isinstance(item, dict):
            yield item, f"{param}.tools[{index}]"


class GrammarMeter:
    """Adds up the sizes of all schemas of one body."""

    __slots__ = ("_bytes", "_lengths", "_literals", "_nodes", "_repeats", "_times", "config")

    def __init__(self, config: GrammarsConfig) -> None:
        self.config = config
        self._bytes = self._nodes = self._literals = self._repeats = 0
        self._times = 1
        self._lengths: set[tuple[object, object]] = set()

    def add_schema(self, schema: object, param: str) -> None:
        """Add a JSON schema, or a structural tag, which holds schemas."""
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise InvalidField(param, "a JSON schema")
        self._add_bytes(schema, param)
        nodes: list[Json] = []
        todo: list[tuple[Json, int, int]] = [(schema, 1, 1)]
        while todo:
            node, depth, self._times = todo.pop()
            nodes.append(node)
            self._add_node(node, depth, param)
            times = self._times * self._add_repetition(node, param)
            todo.extend((child, depth + 1, times) for child in self._children(node, param))
        self._times = 1
        if _runs_in_circles(schema, nodes):
            raise InvalidField(param, "references that lead somewhere")

    def add_pattern(self, pattern: object, param: str) -> None:
        """Add a regular expression."""
        if not isinstance(pattern, str) or "\x00" in pattern:
            raise InvalidField(param, "a regular expression")
        if len(pattern) > self.config.pattern_chars_max:
            raise TooMany(param, "characters", self.config.pattern_chars_max)
        self._add_shape(measure_pattern(pattern), param)

    def add_grammar(self, grammar: object, param: str) -> None:
        """Add a grammar in EBNF or in Lark's notation."""
        if not isinstance(grammar, str) or not grammar.strip():
            raise InvalidField(param, "a grammar")
        if len(grammar) > self.config.grammar_chars_max:
            raise TooMany(param, "characters", self.config.grammar_chars_max)
        ebnf = as_ebnf(grammar)
        self._add_shape(measure_grammar(ebnf), param)
        rules = read_rules(ebnf)
        if len(rules) > self.config.rules_max:
            raise TooMany(param, "rules", self.config.rules_max)
        if not ends_somewhere(rules):
            raise InvalidField(param, "a grammar whose 'root' stands for a finite text")

    def add_choice(self, choices: object, param: str) -> None:
        """Add a list of texts."""
        if not isinstance(choices, list) or not choices:
            raise InvalidField(param, "a list of at least one string")
        for choice in choices:
            if not isinstance(choice, str):
                raise InvalidField(param, "a list of strings")
            self._add_literal(len(choice) + 1, param)

    def _add_bytes(self, schema: object, param: str) -> None:
        try:
            self._bytes += len(orjson.dumps(schema))
        except orjson.JSONEncodeError:
            raise MalformedBody("it is nested too deeply") from None
        if self._bytes > self.config.schema_bytes_max:
            raise TooMany(param, "bytes of schemas", self.config.schema_bytes_max)

    def _add_node(self, node: Json, depth: int, param: str) -> None:
        self._nodes += 1
        if self._nodes > self.config.nodes_max:
            raise TooMany(param, "nested objects", self.config.nodes_max)
        if depth > self.config.depth_max:
            raise TooMany(param, "levels of nesting", self.config.depth_max)
        bounds = (node.get("minLength"), node.get("maxLength"))
        if bounds != (None, None):
            self._add_lengths(bounds, param)
        self._add_property_counts(node, param)

    def _add_repetition(self, node: Json, param: str) -> int:
        """How often a format of a structural tag repeats its content; an optional part may be left
        out."""
        if node.get("type") == "optional" or node.get("value") == "":
            self._add_repeats(OPTIONAL_REPEATS, param)
        if node.get("type") != "repeat":
            return 1
        counts = [node.get("min"), node.get("max")]
        largest = max((count for count in counts if _is_count(count)), default=0)
        times = min(largest, REPEATS_MAX)
        self._add_repeats(times, param)
        return max(times, 1)

    def _add_property_counts(self, node: Json, param: str) -> None:
        """Count the copies of properties: a grammar with counts has each once per count."""
        counts = [node.get("minProperties"), node.get("maxProperties")]
        largest = max((count for count in counts if _is_count(count)), default=0)
        properties = node.get("properties")
        if largest and isinstance(properties, dict):
            self._add_repeats(len(properties) * largest // PROPERTIES_PER_REPEAT, param)

    def _add_lengths(self, bounds: tuple[object, object], param: str) -> None:
        if not all(bound is None or _is_count(bound) for bound in bounds):
            # Under `properties`, `minLength` is the name of a property, so its value is an object.
            if any(isinstance(bound, dict) for bound in bounds):
                return
            raise InvalidField(f"{param}: minLength, maxLength", "whole numbers")
        if bounds not in self._lengths:
            self._lengths.add(bounds)
            largest = max(bound for bound in bounds if isinstance(bound, int))
            self._add_repeats(min(largest, REPEATS_MAX), param)

    def _children(self, node: Json, param: str) -> Iterator[Json]:
        for key, value in node.items():
            if key in NAMED_SCHEMAS or key == "patternProperties":
                yield from self._named(key, value, param)
            elif key not in ANNOTATIONS:
                self._add_keyword(key, value, param)
                yield from _objects(value)

    def _named(self, key: str, value: object, param: str) -> Iterator[Json]:
        if not isinstance(value, dict):
            raise InvalidField(f"{param}: {key}", "an object")
        for name, child in value.items():
            if key == "patternProperties":
                self.add_pattern(name, f"{param}: patternProperties")
            else:
                self._add_literal(len(name), param)
            yield from _objects(child)

    def _add_keyword(self, key: str, value: object, param: str) -> None:
        if key == "pattern" or key == "regex":
            if not isinstance(value, dict):
                self.add_pattern(value, f"{param}: {key}")
        elif key == "grammar" and isinstance(value, str):
            self.add_grammar(value, f"{param}: {key}")
        elif key in ITEMS and not isinstance(value, dict):
            if not _is_count(value) or value > self.config.items_max:
                raise InvalidField(f"{param}: {key}", f"0 to {self.config.items_max}")
        elif key == "$ref" and not isinstance(value, dict):
            if not isinstance(value, str) or not value.startswith("#"):
                raise InvalidField(f"{param}: $ref", "a reference within the schema ('#...')")
        elif key == "type" and not isinstance(value, str | dict) and not _are_names(value):
            raise InvalidField(f"{param}: type", "a name or a list of names")
        elif key not in ANNOTATIONS:
            self._add_literal(_text_chars(value), param)

    def _add_literal(self, chars: int, param: str) -> None:
        self._literals += chars
        if self._literals > self.config.literal_chars_max:
            raise TooMany(param, "characters of choices and names", self.config.literal_chars_max)

    def _add_shape(self, shape: Shape, param: str) -> None:
        if shape.depth > self.config.depth_max:
            raise TooMany(param, "levels of nesting", self.config.depth_max)
        self._add_repeats(shape.repeats, param)

    def _add_repeats(self, repeats: int, param: str) -> None:
        self._repeats += repeats * self._times
        if self._repeats > self.config.repeats_max:
            raise TooMany(param, "repetitions", self.config.repeats_max)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _are_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _objects(value: object) -> Iterator[Json]:
    """The schemas that a keyword holds: a single schema, or several in a list."""
    if isinstance(value, dict):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _text_chars(value: object) -> int:
    """The characters that the values of an enum, and all other texts, add to a grammar."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(_text_chars(item) + 1 for item in value)
    return 0


def _runs_in_circles(schema: Json, nodes: list[Json]) -> bool:
    """Whether a node of a schema contains itself through references and combinations alone.

    A depth-first search enters every node once, even if many paths lead to it.
    """
    open_nodes: set[int] = set()
    done: set[int] = set()
    todo: list[tuple[Json, bool]] = [(node, False) for node in nodes]
    while todo:
        node, leaving = todo.pop()
        if leaving:
            open_nodes.discard(id(node))
            done.add(id(node))
        elif id(node) in open_nodes:
            return True
        elif id(node) not in done:
            open_nodes.add(id(node))
            todo.append((node, True))
            todo.extend((other, False) for other in _same_place(schema, node))
    return False


def _same_place(schema: Json, node: Json) -> Iterator[Json]:
    """The schemas that a schema stands for without a character in between."""
    if isinstance(node.get("$ref"), str):
        target = _resolve(schema, node["$ref"])
        if isinstance(target, dict):
            yield target
    for key in COMBINATIONS:
        items = node.get(key)
        if isinstance(items, list):
            yield from (item for item in items if isinstance(item, dict))


def _resolve(schema: Json, reference: str) -> object:
    """The target of a reference within the schema, None if it has no target."""
    node: object = schema
    for step in reference.lstrip("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        node = node.get(key) if isinstance(node, dict) else None
    return node
