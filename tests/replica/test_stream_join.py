"""When tokens of a stream wait for each other: decided with a clock and a loop that tests turn."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import (
    OutputProcessor,
    RequestOutputCollector,
    RequestState,
)
from vllm.v1.engine.parallel_sampling import ParentRequest

from serve_app import demo
from serve_app.replica.draft_gate import WATCH, Watch
from serve_app.replica.engine_watch import join_streams, joined, timed
from serve_app.replica.stream_join import FORGET_S, LAG_S_MIN, JoinedStream, StreamJoiner

BOUND_S = 0.05
STEP_S = 0.01


class FakeLoop:
    """A loop and its clock, both of which stand still until a test moves them."""

    def __init__(self) -> None:
        self.now = 100.0
        self._soon: list[Callable[[], object]] = []
        self._later: list[tuple[float, Callable[[], object]]] = []

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> None:
        self._soon.append(lambda: callback(*args))

    def call_later(self, delay_s: float, callback: Callable[..., object], /, *args: Any) -> None:
        self._later.append((self.now + delay_s, lambda: callback(*args)))

    @property
    def timers(self) -> int:
        return len(self._later)

    def turn(self, took_s: float = 0.0) -> None:
        """Do what is ready, after other tasks that took some time."""
        self.now += took_s
        ready, self._soon = self._soon, []
        for callback in ready:
            callback()

    def pass_time(self, seconds: float) -> None:
        """Time passes, and the timers that are due fire."""
        self.now += seconds
        due = [callback for at, callback in self._later if at <= self.now + 1e-9]
        self._later = [each for each in self._later if each[0] > self.now + 1e-9]
        for callback in due:
            callback()


class FakeState:
    """The state of a request whose outputs are its tokens; token 0 has no text."""

    def __init__(self) -> None:
        self.queue = self
        self.put_later: list[list[int]] = []

    def make_request_output(self, token_ids: list[int], *_: object, **__: object) -> Any:
        text = "".join(str(each) for each in token_ids if each)
        return SimpleNamespace(outputs=[SimpleNamespace(text=text)], token_ids=token_ids)

    def put(self, output: Any) -> None:
        self.put_later.append(output.token_ids)


class Bench:
    """Streams on one loop."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.joiner = StreamJoiner(BOUND_S, self.loop, self.loop.clock)
        self.state = FakeState()
        self.may_wait = True
        self.stream = JoinedStream(self.state, self.joiner, lambda: self.may_wait)

    def step(self, *token_ids: int, took_s: float = 0.0, ended: bool = False) -> list[int] | None:
        """A step of the engine with tokens for the stream: what goes out at once."""
        self.loop.pass_time(STEP_S)
        self.joiner.begin_step()
        output = self.stream.make(list(token_ids), None, "length" if ended else None, None)
        self.joiner.end_step()
        self.loop.turn(took_s)
        return None if output is None else output.token_ids

    def lag(self) -> None:
        """Slow turns, without tokens of the stream."""
        for _ in range(20):
            self.joiner.begin_step()
            self.joiner.end_step()
            self.loop.turn(2 * LAG_S_MIN)
        assert self.joiner.lagging


def test_on_an_idle_loop_each_token_goes_out_alone() -> None:
    """No timer is set, either."""
    bench = Bench()
    assert [bench.step(token) for token in range(1, 9)] == [[token] for token in range(1, 9)]
    assert bench.loop.timers == 0


def test_one_slow_turn_is_no_lag() -> None:
    """A lease or a small garbage collection happens on an idle loop, too."""
    bench = Bench()
    bench.step(1)
    assert bench.step(2, took_s=5 * LAG_S_MIN) == [2]
    assert bench.step(3) == [3]


def test_on_a_lagging_loop_tokens_wait_for_the_bound() -> None:
    """Then they go out together, with the token that finds the bound passed."""
    bench = Bench()
    bench.lag()
    assert bench.step(1) == [1]
    assert [bench.step(token) for token in range(2, 6)] == [None] * 4
    assert bench.step(6) == [2, 3, 4, 5, 6]
    assert bench.step(7) is None
    assert bench.state.put_later == []


def test_the_first_text_never_waits() -> None:
    """Nor does a token whose character is not yet complete count as the first."""
    bench = Bench()
    bench.lag()
    assert bench.step(0) == [0]
    assert bench.step(0) == [0]
    assert bench.step(1) == [1]
    assert bench.step(2) is None


def test_the_end_never_waits_and_takes_everything_with_it() -> None:
    """Nothing is sent after it."""
    bench = Bench()
    bench.lag()
    bench.step(1)
    assert bench.step(2) is None
    assert bench.step(3, ended=True) == [2, 3]
    bench.loop.pass_time(2 * BOUND_S)
    assert bench.state.put_later == []


def test_an_abort_takes_everything_with_it() -> None:
    """vLLM asks for the output of an abort without a token."""
    bench = Bench()
    bench.lag()
    bench.step(1)
    bench.step(2)
    output = bench.stream.make([], None, finish_reason="abort", stop_reason=None)
    assert output.token_ids == [2]


def test_an_engine_that_makes_no_further_token_delays_none() -> None:
    """A timer sends what has waited for the bound, once."""
    bench = Bench()
    bench.lag()
    bench.step(1)
    assert bench.step(2) is None
    assert bench.step(3) is None
    bench.loop.pass_time(BOUND_S - STEP_S - 0.001)
    assert bench.state.put_later == []
    bench.loop.pass_time(0.001)
    assert bench.state.put_later == [[2, 3]]
    bench.loop.pass_time(1.0)
    assert bench.state.put_later == [[2, 3]]
    assert bench.loop.timers == 0


def test_a_timer_of_tokens_that_have_gone_sends_nothing_early() -> None:
    """The tokens that wait now have a time of their own."""
    bench = Bench()
    bench.lag()
    bench.step(1)
    for token in (2, 3, 4, 5):
        assert bench.step(token) is None
    assert bench.step(6) == [2, 3, 4, 5, 6]
    assert bench.step(7) is None
    assert bench.state.put_later == []
    bench.loop.pass_time(BOUND_S)
    bench.loop.pass_time(BOUND_S)
    assert bench.state.put_later == [[7]]


def test_a_draft_waits_only_after_its_checkpoint() -> None:
    """Until then the Router waits for each token."""
    bench = Bench()
    bench.lag()
    bench.may_wait = False
    assert bench.step(1) == [1]
    assert bench.step(2) == [2]
    bench.may_wait = True
    assert bench.step(3) is None


def test_the_lag_ends_when_the_loop_keeps_up() -> None:
    """Then each token goes out alone again."""
    bench = Bench()
    bench.lag()
    for token in range(1, 40):
        bench.step(token)
    assert not bench.joiner.lagging
    assert bench.step(41) == [41]
    assert bench.step(42) == [42]


def test_a_pause_ends_the_lag() -> None:
    """What was long ago says nothing about the next call."""
    bench = Bench()
    bench.lag()
    bench.loop.pass_time(FORGET_S)
    assert bench.step(1) == [1]
    assert bench.step(2) == [2]


class Streams:
    """vLLM's output processor with the demo's tokenizer, and the streams that it feeds."""

    def __init__(self, *, lagging: bool) -> None:
        self.loop = FakeLoop()
        self.joiner = StreamJoiner(BOUND_S, self.loop, self.loop.clock)
        self.joiner.lagging = lagging
        self.tokenizer = AutoTokenizer.from_pretrained(demo.locate("fast"))
        self.processor = OutputProcessor(self.tokenizer, log_stats=False)
        self.processor.add_request = joined(  # type: ignore[method-assign]
            self.processor.add_request, self.processor.request_states, self.joiner
        )
        self.processor.process_outputs = timed(  # type: ignore[method-assign]
            self.processor.process_outputs, self.joiner
        )
        self.events: list[RequestOutput] = []

    def add(
        self, name: str, parent: ParentRequest | None = None, index: int = 0, **params: Any
    ) -> RequestOutputCollector:
        kind = params.pop("output_kind", RequestOutputKind.DELTA)
        request = make_request(name, SamplingParams(output_kind=kind, max_tokens=99, **params))
        queue = RequestOutputCollector(kind, name)
        self.processor.add_request(request, "prompt", parent, index, queue)
        return queue

    def run(self, queue: RequestOutputCollector, name: str, token_ids: Sequence[int]) -> None:
        """One step for each token; the last ends the request."""
        for place, token_id in enumerate(token_ids, 1):
            ended = FinishReason.LENGTH if place == len(token_ids) else None
            self.loop.pass_time(STEP_S)
            step = [EngineCoreOutput(name, [token_id], finish_reason=ended)]
            self.processor.process_outputs(step)
            event = queue.get_nowait()
            if isinstance(event, RequestOutput):
                self.events.append(event)


def make_request(name: str, params: SamplingParams) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=name,
        external_req_id=name,
        prompt_token_ids=[1, 2, 3],
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def streamed(text: str, *, lagging: bool, **params: Any) -> tuple[str, list[int], int, Any]:
    """A text through vLLM's output processor: text, token ids, events and why it stopped."""
    streams = Streams(lagging=lagging)
    token_ids = streams.tokenizer.encode(text)
    streams.run(streams.add("a", **params), "a", token_ids)
    outputs = [event.outputs[0] for event in streams.events]
    ids = [token_id for each in outputs for token_id in each.token_ids]
    return "".join(each.text for each in outputs), ids, len(outputs), outputs[-1].stop_reason


@pytest.mark.parametrize(
    "text", ["The capital of France is Paris, and 4 * 6 = 24.", "法国的首都是巴黎。 🙂 Grüße!"]
)
def test_joined_tokens_have_the_same_text(text: str) -> None:
    """Also where a character needs several tokens, and with fewer events."""
    apart, together = streamed(text, lagging=False), streamed(text, lagging=True)
    assert apart[:2] == together[:2]
    assert apart[0] == text
    assert together[2] <= apart[2] / 2


def test_a_stop_string_stops_among_joined_tokens() -> None:
    """The text ends before it, as without a lag."""
    text = "one two three four five six seven eight nine ten"
    apart = streamed(text, lagging=False, stop=["seven"])
    together = streamed(text, lagging=True, stop=["seven"])
    assert apart[0] == together[0] == "one two three four five six "
    assert together[3] == "seven"


@pytest.mark.parametrize(
    "params", [{"output_kind": RequestOutputKind.FINAL_ONLY}, {"stream_interval": 2}]
)
def test_what_is_no_plain_stream_is_left_alone(params: dict[str, Any]) -> None:
    """An answer in one piece, and a client that chose its own interval."""
    streams = Streams(lagging=True)
    streams.add("a", **params)
    state = streams.processor.request_states["a"]
    assert state.make_request_output == RequestState.make_request_output.__get__(state)


def test_each_choice_of_a_call_is_joined_by_itself() -> None:
    """Choices share a queue, in which vLLM keeps them apart."""
    streams = Streams(lagging=True)
    params = SamplingParams(n=2, output_kind=RequestOutputKind.DELTA)
    parent = ParentRequest(make_request("p", params))
    ids = streams.tokenizer.encode("one two three four")
    names = [parent.get_child_info(index)[0] for index in range(2)]
    queues = [streams.add(name, parent, index) for index, name in enumerate(names)]
    for queue, name in zip(queues, names, strict=True):
        streams.run(queue, name, ids)
    text = {0: "", 1: ""}
    for event in streams.events:
        for each in event.outputs:
            text[each.index] += each.text
    assert text == {0: "one two three four", 1: "one two three four"}
    assert streams.events[-1].finished


@contextmanager
def drafting(tokens: int) -> Iterator[Watch]:
    async def ignore(report: object) -> None: ...

    watch = Watch(tokens, ignore)
    token = WATCH.set(watch)
    yield watch
    WATCH.reset(token)


def test_a_draft_is_joined_after_its_checkpoint_alone() -> None:
    """Its watch is that of the exchange that added the request."""
    streams = Streams(lagging=True)
    ids = streams.tokenizer.encode("one two three four five")
    with drafting(3) as watch:
        queue = streams.add("a")
    streams.run(queue, "a", ids[:1] * 3 + ids[:1])
    assert [len(event.outputs[0].token_ids) for event in streams.events] == [1, 1, 1, 1]
    with drafting(3) as watch:
        queue = streams.add("b")
    watch.done = True
    streams.events.clear()
    streams.run(queue, "b", ids)
    assert len(streams.events) < len(ids)


async def test_joining_can_be_switched_off() -> None:
    """A bound of 0 touches nothing."""
    client = SimpleNamespace(output_processor=OutputProcessor(None, log_stats=False))
    join_streams(client, 0.0)
    assert "add_request" not in vars(client.output_processor)
    join_streams(client, BOUND_S)
    assert {"add_request", "process_outputs"} <= vars(client.output_processor).keys()


async def test_an_engine_without_an_output_processor_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A simulated one, or one of a later vLLM."""
    join_streams(object(), BOUND_S)
    assert "never joined" in caplog.text


def test_vllm_still_makes_outputs_as_the_seam_expects() -> None:
    """An upgrade that changes the private names must be looked at."""
    made = list(inspect.signature(RequestState.make_request_output).parameters)
    assert made[:5] == [
        "self",
        "new_token_ids",
        "pooling_output",
        "finish_reason",
        "stop_reason",
    ]
    assert "output_processor.process_outputs(" in inspect.getsource(AsyncLLM._run_output_handler)
