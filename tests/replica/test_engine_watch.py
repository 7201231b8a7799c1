"""What drafts see of vLLM's outputs, and what its endpoints get instead; vLLM's own types."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager

import pytest
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.engine.parallel_sampling import ParentRequest

from serve_app.core.call import Usage
from serve_app.leases.draft_report import DraftReport
from serve_app.replica.draft_gate import WATCH, Watch
from serve_app.replica.engine_watch import watch_drafts, watch_tokens
from serve_app.replica.meter import METER, Meter

DELTA, FINAL = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY


def completion(index: int, token_ids: Sequence[int], *, finished: bool = False) -> CompletionOutput:
    """Tokens whose log-probability is a tenth of their id, negative."""
    return CompletionOutput(
        index=index,
        text="".join(f"<{token_id}>" for token_id in token_ids),
        token_ids=list(token_ids),
        cumulative_logprob=None,
        logprobs=[{token_id: Logprob(-token_id / 10), 99: Logprob(-9.0)} for token_id in token_ids],
        finish_reason="stop" if finished else None,
    )


def output(*completions: CompletionOutput, finished: bool = False) -> RequestOutput:
    return RequestOutput("id", None, [1, 2, 3], None, list(completions), finished)


class Client:
    """An engine client that yields what it is told and keeps what it was asked."""

    def __init__(self, *outputs: RequestOutput) -> None:
        self.outputs = outputs
        self.params: list[SamplingParams] = []
        self.closed = False

    async def generate(
        self, prompt: object, sampling_params: SamplingParams, request_id: str, **_: object
    ) -> AsyncGenerator[RequestOutput, None]:
        self.params.append(sampling_params)
        try:
            for each in self.outputs:
                yield each
        finally:
            self.closed = True


@contextmanager
def watching(tokens: int) -> Iterator[list[DraftReport]]:
    """The reports of a draft's exchange."""
    reports: list[DraftReport] = []

    async def keep(report: DraftReport) -> None:
        reports.append(report)

    token = WATCH.set(Watch(tokens, keep))
    yield reports
    WATCH.reset(token)


async def test_what_is_no_draft_is_not_watched() -> None:
    """Another call's parameters and outputs are the very objects."""
    only = output(completion(0, [1]), finished=True)
    client = Client(only)
    watch_drafts(client)
    params = SamplingParams(output_kind=DELTA)
    assert [each async for each in client.generate("p", params, "id")] == [only]
    assert client.params == [params]
    assert params.logprobs is None


async def test_a_stream_is_reported_at_its_checkpoint() -> None:
    """The report is made before the token that completes it is passed on."""
    outputs = [output(completion(0, [number])) for number in range(1, 4)]
    client = Client(*outputs, output(completion(0, [4], finished=True), finished=True))
    watch_drafts(client)
    params = SamplingParams(output_kind=DELTA)
    with watching(2) as reports:
        stream = client.generate(prompt="p", sampling_params=params, request_id="id", priority=0)
        seen = [(each.outputs[0].token_ids, len(reports)) async for each in stream]
    assert seen == [([1], 0), ([2], 1), ([3], 1), ([4], 1)]
    assert reports == [DraftReport(3, 2, ((-0.1, -0.2),))]
    assert client.params[0].logprobs == 0
    assert client.params[0].output_kind is DELTA
    assert params.logprobs is None


async def test_a_whole_answer_is_watched_as_it_grows_and_given_once() -> None:
    """Its endpoint gets the finished output alone, each choice in its place."""
    client = Client(
        output(completion(1, [5])),
        output(completion(0, [1, 2])),
        output(completion(1, [5, 6, 7], finished=True)),
        output(completion(0, [1, 2, 3], finished=True), finished=True),
    )
    watch_drafts(client)
    with watching(2) as reports:
        params = SamplingParams(n=2, temperature=1, output_kind=FINAL)
        answers = [each async for each in client.generate("p", params, "id")]
    (answer,) = answers
    assert answer.finished
    assert [(each.index, each.token_ids) for each in answer.outputs] == [
        (0, [1, 2, 3]),
        (1, [5, 6, 7]),
    ]
    assert reports == [DraftReport(3, 5, ((-0.1, -0.2), (-0.5, -0.6)))]
    assert client.params[0].output_kind is RequestOutputKind.CUMULATIVE


async def test_every_prompt_of_a_call_is_waited_for() -> None:
    """A call of two prompts makes both generators before it reads from one."""
    client = Client(output(completion(0, [1, 2], finished=True), finished=True))
    watch_drafts(client)
    with watching(2) as reports:
        params = SamplingParams(output_kind=DELTA)
        first, second = (client.generate("p", params, str(number)) for number in range(2))
        assert [each async for each in first]
        assert not reports
        assert [each async for each in second]
    assert reports == [DraftReport(6, 4, ((-0.1, -0.2), (-0.1, -0.2)))]


@pytest.mark.parametrize("asked", [3, -1])
async def test_a_callers_own_logprobs_are_left_as_they_were_asked(asked: int) -> None:
    """They are read, too; nothing is added to them or taken away."""
    client = Client(output(completion(0, [1], finished=True), finished=True))
    watch_drafts(client)
    with watching(4) as reports:
        params = SamplingParams(logprobs=asked, output_kind=DELTA)
        assert [each async for each in client.generate("p", params, "id")]
    assert client.params[0].logprobs == asked
    assert reports == [DraftReport(3, 1, ((-0.1,),))]


@pytest.mark.parametrize("kind", [DELTA, FINAL])
async def test_closing_a_draft_closes_the_engines_generator(kind: RequestOutputKind) -> None:
    """That is what aborts the request in the engine."""
    client = Client(
        output(completion(0, [1], finished=True), finished=True), output(completion(0, [1, 2]))
    )
    watch_drafts(client)
    with watching(9):
        outputs = client.generate("p", SamplingParams(output_kind=kind), "id")
        await anext(outputs)
        await outputs.aclose()
    assert client.closed


class Detokenized:
    """Hands vLLM's output processor what an engine core would."""

    def __init__(self) -> None:
        self.output_processor = OutputProcessor(tokenizer=None, log_stats=False)

    def add(self, request_id: str, parent: ParentRequest | None = None, index: int = 0) -> None:
        request = EngineCoreRequest(
            request_id=request_id,
            external_req_id=request_id,
            prompt_token_ids=[1, 2, 3],
            mm_features=None,
            sampling_params=SamplingParams(detokenize=False, output_kind=FINAL),
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        self.output_processor.add_request(request, None, parent, index, None)

    def generate(self, request_id: str, *token_ids: int) -> None:
        state = self.output_processor.request_states[request_id]
        assert state.detokenizer is not None
        state.detokenizer.update(list(token_ids), False)


async def test_a_meter_sees_the_tokens_of_its_exchange_alone() -> None:
    """In vLLM's own states, from the first token on, although a whole answer yields none yet."""
    client, meter = Detokenized(), Meter()
    watch_tokens(client)
    client.add("of no exchange")
    token = METER.set(meter)
    client.add("0")
    client.add("1", index=1)
    METER.reset(token)
    client.add("of another one")
    assert meter.read() == Usage(3, 0)
    for request_id in ("0", "1", "1", "of another one"):
        client.generate(request_id, 7, 8)
    assert meter.read() == Usage(3, 6)
    client.output_processor.abort_requests(["0", "1"], internal=True)
    assert meter.read() == Usage(3, 6)


def test_an_engine_without_request_states_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A simulated one, or one of a later vLLM: the log says what is missing then."""
    watch_tokens(object())
    assert "aborted calls count as 0" in caplog.text
