"""The seams to vLLM's engine: the outputs of `generate`, and the state of each request.

All of vLLM's endpoints get their tokens from `AsyncLLM.generate`, so one seam serves all endpoints
and wire formats. The sampled tokens' log-probabilities are requested here and not in the body of
the call, so the answers hold them only where the client asked for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from serve_app.replica.draft_gate import WATCH, Watch
from serve_app.replica.meter import METER
from serve_app.replica.stream_join import JoinedStream, StreamJoiner

logger = logging.getLogger("ray.serve")

Outputs = AsyncGenerator[RequestOutput, None]
Generate = Callable[..., Outputs]


def watch_drafts(client: Any) -> None:
    """Let drafts see the tokens that an engine client generates; other calls pass unchanged."""
    client.generate = watched(client.generate)


def watch_tokens(client: Any) -> None:
    """Let the meter of each exchange see the requests that an engine client has accepted for it.

    Counting the outputs of `generate` would cost time for each token, and would see nothing of an
    answer in one piece before its end. vLLM's output processor keeps the tokens of each request
    anyway, so a reference to its state is enough. None of these interfaces is public.
    """
    processor: Any = getattr(client, "output_processor", None)
    if not hasattr(processor, "request_states"):
        logger.warning("the engine keeps no request states, so tokens of aborted calls count as 0")
        return
    processor.add_request = metered(processor.add_request, processor.request_states)


def metered(add_request: Callable[..., None], states: Mapping[str, Any]) -> Callable[..., None]:
    """Wrap `OutputProcessor.add_request` to show the new state to the exchange's meter, if any."""

    def add(request: Any, *args: Any, **kwargs: Any) -> None:
        add_request(request, *args, **kwargs)
        meter = METER.get()
        if meter is not None:
            meter.add(states[request.request_id])

    return add


def join_streams(client: Any, bound_s: float) -> None:
    """Let tokens of a stream wait for each other, up to a bound, while this event loop lags.

    vLLM's `stream_interval` counts tokens, for all streams, whether the loop lags or not. So the
    decision is made here, where vLLM would make it. None of these interfaces is public: without
    them each token stays an event.
    """
    if bound_s <= 0:
        return
    processor: Any = getattr(client, "output_processor", None)
    needed = ("request_states", "add_request", "process_outputs")
    if not all(hasattr(processor, name) for name in needed):
        logger.warning("the engine has no output processor, so tokens of streams are never joined")
        return
    joiner = StreamJoiner(bound_s, asyncio.get_running_loop())
    processor.add_request = joined(processor.add_request, processor.request_states, joiner)
    processor.process_outputs = timed(processor.process_outputs, joiner)


def joined(
    add_request: Callable[..., None], states: Mapping[str, Any], joiner: StreamJoiner
) -> Callable[..., None]:
    """Wrap `OutputProcessor.add_request` to let the tokens of streams wait for each other."""

    def add(request: Any, *args: Any, **kwargs: Any) -> None:
        known = request.request_id in states
        add_request(request, *args, **kwargs)
        state: Any = states.get(request.request_id)
        if not known and _is_joinable(state):
            state.make_request_output = JoinedStream(state, joiner, _choose_wait(WATCH.get())).make

    return add


def _is_joinable(state: Any) -> bool:
    """Whether a state streams text; a `stream_interval` of the client's own stays as it is."""
    return (
        state is not None
        and state.output_kind is RequestOutputKind.DELTA
        and state.stream_interval == 1
        and state.queue is not None
        and state.detokenizer is not None
        and not state.streaming_input
    )


def _choose_wait(watch: Watch | None) -> Callable[[], bool]:
    """A draft's tokens wait only once its checkpoint has seen them."""
    return _always if watch is None else lambda: watch.done


def _always() -> bool:
    return True


def timed(process_outputs: Callable[..., Any], joiner: StreamJoiner) -> Callable[..., Any]:
    """Wrap `OutputProcessor.process_outputs` to time how long the loop needs for each step."""

    def process(*args: Any, **kwargs: Any) -> Any:
        joiner.begin_step()
        processed = process_outputs(*args, **kwargs)
        joiner.end_step()
        return processed

    return process


def watched(generate: Generate) -> Generate:
    """Wrap `AsyncLLM.generate` to report every token to the exchange's watch, if any."""

    def observed(
        prompt: object, sampling_params: SamplingParams, *args: Any, **kwargs: Any
    ) -> Outputs:
        watch = WATCH.get()
        if watch is None or watch.done:
            return generate(prompt, sampling_params, *args, **kwargs)
        whole = sampling_params.output_kind is RequestOutputKind.FINAL_ONLY
        params = _with_logprobs(sampling_params)
        # Not at the first token, because a call of several prompts first makes all its generators.
        first = watch.expect(params.n)
        outputs = _observe(generate(prompt, params, *args, **kwargs), watch, first, params)
        return _last(outputs) if whole else outputs

    return observed


def _with_logprobs(params: SamplingParams) -> SamplingParams:
    params = params.clone()
    if params.num_logprobs is None:
        params.logprobs = 0  # the log-probability of the sampled token alone
    if params.output_kind is RequestOutputKind.FINAL_ONLY:
        params.output_kind = RequestOutputKind.CUMULATIVE
    return params


async def _observe(outputs: Outputs, watch: Watch, first: int, params: SamplingParams) -> Outputs:
    cumulative = params.output_kind is not RequestOutputKind.DELTA
    # Closing the generator aborts the request in the engine.
    async with aclosing(outputs):
        prompt_noted = False
        async for output in outputs:
            if not watch.done:
                if not prompt_noted:
                    watch.note_prompt(len(output.prompt_token_ids or ()))
                    prompt_noted = True
                for completion in output.outputs:
                    sequence = first + completion.index
                    seen = watch.noted(sequence) if cumulative else 0
                    logprobs = _logprobs(completion, seen)
                    watch.note(sequence, logprobs, ended=completion.finished())
                await watch.check()
            yield output


def _logprobs(completion: CompletionOutput, seen: int) -> list[float]:
    positions = zip(completion.token_ids[seen:], (completion.logprobs or ())[seen:], strict=False)
    return [position[token_id].logprob for token_id, position in positions]


async def _last(outputs: Outputs) -> Outputs:
    """The finished output alone, with every choice, as FINAL_ONLY yields it."""
    completions: dict[int, CompletionOutput] = {}
    async with aclosing(outputs):
        async for output in outputs:
            completions.update((each.index, each) for each in output.outputs)
            if output.finished:
                output.outputs = [completions[index] for index in sorted(completions)]
                yield output
