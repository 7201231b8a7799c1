"""The audit log of one Router: the interface for the way of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from serve_app.audit.waiting import WaitingRecords
from serve_app.audit.writer import AuditWriter
from serve_app.config.audit import AuditConfig
from serve_app.core.audit_state import AuditState
from serve_app.core.call import Call, Record
from serve_app.core.chunks import Take
from serve_app.core.content import Content
from serve_app.core.errors import AuditUnavailable
from serve_app.leases.tier import Answer

RETRY_AFTER_S = 5


class AuditLog:
    """Takes the record of every call, and refuses calls that could not be recorded."""

    def __init__(self, config: AuditConfig, waiting: WaitingRecords, writer: AuditWriter) -> None:
        self._config = config
        self._waiting = waiting
        self._writer = writer
        self._refuses = config.on_full == "refuse"

    def start(self) -> None:
        """Begin to write."""
        self._writer.start()

    async def close(self) -> None:
        """Write what waits, and end the chain."""
        await asyncio.to_thread(self._writer.stop)

    def check(self) -> None:
        """Refuse a call while its record could not be written, if the config says so.

        Raises:
            AuditUnavailable: the log fails, and the config says `on_full: refuse`.
        """
        if self._refuses and (self._writer.failing or self._waiting.full):
            raise AuditUnavailable(RETRY_AFTER_S)

    def watch(self, call: Call, record: Record, answer: Answer) -> Answer:
        """The answer, of which a copy is kept if the config keeps texts."""
        if not self._config.content:
            return answer
        record.content = self._keep(call)
        return CopiedAnswer(answer, record.content) if record.content.answer_chars_max else answer

    def add(self, record: Record) -> None:
        """Take the record of an ended call."""
        self._waiting.put(record)

    def note(self, kind: str, fields: Mapping[str, object]) -> None:
        """Take a record of something that is no call."""
        self._waiting.note(kind, fields)

    def state(self) -> AuditState:
        """The counts since the start."""
        missed = self._waiting.missed
        return AuditState(
            written=self._writer.written,
            lost=missed.lost,
            refused=missed.refused,
            waiting=self._writer.unwritten,
            failing=self._writer.failing or self._waiting.full,
        )

    def _keep(self, call: Call) -> Content:
        kinds, chars_max = self._config.content, self._config.text_chars_max
        answers = "answers" in kinds and call.endpoint.generates
        prompt = None
        if "prompts" in kinds:
            prompt = [(turn.role, turn.text) for turn in call.prompt.turns]
        too_long = prompt is not None and sum(len(text) for _, text in prompt) > chars_max
        kept = None if too_long else prompt
        return Content(kept, chars_max if answers else 0, prompt_too_long=too_long)


class CopiedAnswer:
    """An answer whose pieces are kept as they are read."""

    __slots__ = ("_answer", "_content", "headers", "status")

    def __init__(self, answer: Answer, content: Content) -> None:
        self._answer = answer
        self._content = content
        self.status = answer.status
        self.headers = answer.headers

    async def read(self) -> bytes:
        """The next body bytes, b'' after the last ones."""
        chunk = await self._answer.read()
        self._content.add(chunk)
        return chunk

    def divert(self, take: Take) -> None:
        """Every chunk is kept for the record."""
