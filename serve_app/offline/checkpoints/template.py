"""Check that a chat template exists and is Jinja that the sandbox accepts; nothing is rendered."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serve_app.model_files.files import read_bytes
from serve_app.offline.checkpoints.settings import TOKENIZER_CONFIG, Settings

TEMPLATE_BYTES_MAX = 1024 * 1024
_COPY = "take the template from the model's source again"


class _GenerationBlock(Extension):
    """`{% generation %}`, a tag of transformers' own, which marks the text of the assistant."""

    tags = {"generation"}  # noqa: RUF012  # declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_template(settings: Settings) -> int:
    """Parse every chat template and return the number of templates."""
    environment = ImmutableSandboxedEnvironment(
        extensions=["jinja2.ext.loopcontrols", _GenerationBlock]
    )
    count = 0
    for where, text in _templates(settings):
        count += 1
        try:
            # Parse only: compiling would compute constants such as {{ 9 ** 9 ** 9 }}.
            environment.parse(text)
        except TemplateError as error:
            settings.find(where, f"the chat template is not valid Jinja: {error}", _COPY)
        except RecursionError:
            settings.find(where, "the chat template is nested too deep", _COPY)
    if not count:
        mend = "chat needs a template: the model's own, or the engine argument chat_template"
        settings.find("chat_template.jinja", "no chat template", mend, fatal=False)
    return count


def _templates(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in settings.files:
        if name.endswith(".jinja"):
            try:
                yield name, read_bytes(settings.directory / name, TEMPLATE_BYTES_MAX).decode()
            except ValueError as error:
                settings.find(name, f"the chat template is not readable: {error}", _COPY)
    for name in (TOKENIZER_CONFIG, "chat_template.json"):
        value = settings.read(name).get("chat_template")
        for item in value if isinstance(value, list) else [value]:
            text = item.get("template") if isinstance(item, dict) else item
            if isinstance(text, str) and len(text) <= TEMPLATE_BYTES_MAX:
                yield name, text
            elif text is not None:
                settings.find(name, "chat_template is not text, or too long", _COPY)
