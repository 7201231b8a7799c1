"""Makes the label of one sample: asks the other tier, and compares the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from serve_app.config.runtime import RuntimeConfig
from serve_app.core.call import Endpoint
from serve_app.core.held_body import BYTES_BESIDE, BYTES_PER_CHAR
from serve_app.feedback.answer_text import answer_text, count_tokens
from serve_app.feedback.ask import AnswerTooLong, LabelRefused, ask
from serve_app.feedback.compare import same
from serve_app.feedback.judge import choose_language, parse_verdict, render_question
from serve_app.feedback.sample import Label, Sample
from serve_app.feedback.sampling import TierPair
from serve_app.feedback.tally import Fate
from serve_app.leases.tier import Tier


class NoLabel(Exception):
    """The sample can have no label, and another try would not change that."""

    def __init__(self, fate: Fate) -> None:
        super().__init__(fate)
        self.fate = fate


class LabelMaker:
    """The label calls between the two tiers whose answers labels compare.

    `runtime` may be replaced at any time.
    """

    def __init__(self, pair: TierPair, tiers: Mapping[str, Tier], runtime: RuntimeConfig) -> None:
        self.runtime = runtime
        self._pair = pair
        self._tiers = tiers

    def tiers_of(self, sample: Sample) -> set[str]:
        """The tiers that the label of this sample may ask."""
        judges = self.runtime.feedback.compare == "judge"
        return {sample.other, self._pair.large.name} if judges else {sample.other}

    async def make(self, sample: Sample) -> Label:
        """Ask the other tier, unless the sample has its answer already, and compare.

        Raises:
            GatewayError: a tier did not answer.
            NoLabel: the answers cannot be compared.
        """
        if sample.other_answer is None:
            sample.other_answer = await self._ask_other(sample)
        alike = await asyncio.to_thread(same, *sample.answers())
        if alike:
            return Label(1.0, 1.0, "match", same=True)
        if self.runtime.feedback.compare == "judge":
            return await self._judge(sample)
        if alike is None:
            raise NoLabel(Fate.UNDECIDED)
        return Label(0.0, 1.0, "match", same=False)

    async def _ask_other(self, sample: Sample) -> str:
        answer = await self._ask(sample, sample.other, sample.endpoint, sample.body)
        text = answer_text(sample.endpoint, answer)
        if text is None:
            raise NoLabel(Fate.NO_TEXT)
        if len(text) > self.runtime.feedback.text_chars_max:
            raise NoLabel(Fate.TOO_LONG)
        return text

    async def _judge(self, sample: Sample) -> Label:
        """Ask in both orders. A judge that contradicts itself has followed the order."""
        small, large = sample.answers()
        verdict = await self._ask_judge(sample, small, large)
        swapped = await self._ask_judge(sample, large, small)
        if verdict != swapped[::-1]:
            raise NoLabel(Fate.UNDECIDED)
        return Label(float(verdict[0]), float(verdict[1]), "judge", same=False)

    async def _ask_judge(self, sample: Sample, a: str, b: str) -> tuple[bool, bool]:
        large, language = self._pair.large, choose_language(sample.turns)
        body = render_question(large.model_id, sample.turns, a, b, language)
        answer = await self._ask(sample, large.name, Endpoint.CHAT, body)
        verdict = parse_verdict(answer_text(Endpoint.CHAT, answer) or "")
        if verdict is None:
            raise NoLabel(Fate.BAD_VERDICT)
        return verdict

    async def _ask(self, sample: Sample, tier: str, endpoint: Endpoint, body: bytes) -> bytes:
        runtime = self.runtime
        bytes_max = BYTES_PER_CHAR * runtime.feedback.text_chars_max + BYTES_BESIDE
        request_id = f"label-{sample.request_id}"
        try:
            answer = await ask(
                self._tiers[tier], endpoint.value, body, request_id, runtime.deadlines, bytes_max
            )
        except LabelRefused:
            raise NoLabel(Fate.REFUSED) from None
        except AnswerTooLong:
            raise NoLabel(Fate.TOO_LONG) from None
        sample.label_tokens += count_tokens(answer)
        return answer
