"""The seams to vLLM's engine: the outputs of `generate`, and the state of each request.

All of vLLM's endpoints get their tokens from `AsyncLLM.generate`, so one seam serves all endpoints
and wire formats. The sampled tokens' log-probabilities are requested here and not in the body of
the call, so the answers hold them only where the client asked for them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from serve_app.replica.draft_gate import WATCH, Watch
from serve_app.replica.meter import METER

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
