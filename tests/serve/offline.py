"""One engine in a process of its own.

    python -m tests.serve.offline MODEL ENGINE SAMPLING PROMPT...

ENGINE is JSON, as under `engine` of a tier; SAMPLING too, as in a request. Prints the answers as
JSON in a line that begins with `ANSWERS`; the engine ends with the process.
"""

from __future__ import annotations

import json
import sys

ANSWERS = "answers: "
"""Before the answers, since vLLM and its libraries write to stdout too."""


def main() -> None:
    """Answer every prompt, at temperature 0 unless it is said otherwise."""
    # Imported here, because a test that wants `ANSWERS` would wait ten seconds for vLLM.
    from vllm import LLM, SamplingParams

    from serve_app.deploy.engine_args import check_engine_args

    model, engine, given, *prompts = sys.argv[1:]
    check_engine_args("tested", json.loads(engine))
    llm = LLM(model, **json.loads(engine))
    sampling = SamplingParams(**{"temperature": 0, "max_tokens": 24, **json.loads(given)})
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    answers = llm.chat(chats, sampling, use_tqdm=False)  # type: ignore[arg-type]  # TypedDicts
    print("\n" + ANSWERS + json.dumps([answer.outputs[0].text for answer in answers]))


if __name__ == "__main__":
    main()
