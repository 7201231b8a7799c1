"""A vision-language model on the CPU engine, beside a model that reads text only."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import openai
import pytest
import yaml

from serve_app.core.images import GRIDS, IMAGE_MARKS, Patches
from tests.pictures import ask_about, data_url, image_part, picture, png_head
from tests.serve.conftest import run_dir
from tests.serve.leases import leased
from tests.serve.service import ROOT, Service, running_service
from tests.serve.torchvision_cpu import find_torchvision
from tests.tiny_vision import write_tiny_vision

pytestmark = pytest.mark.serve

PICTURE = data_url(picture("PNG", 300, 200))
TEXT_ONLY = ("enable_auto_tool_choice", "tool_call_parser", "structured_outputs_config")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """configs/local.yaml, whose strong model is replaced by one that reads images."""
    document = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    model = write_tiny_vision(tmp_path_factory.mktemp("vision"))
    application = document["applications"][0]
    fast = application["args"]["tiers"][0]
    application["args"]["tiers"] = [fast, vision_tier(fast, model)]
    del application["deployments"][0]["user_config"]["prices"]
    directory = run_dir(tmp_path_factory)
    config = directory.parent / "vision.yaml"
    config.write_text(yaml.safe_dump(document))
    with running_service(config, directory) as running:
        yield running


def vision_tier(fast: dict[str, Any], model: Path) -> dict[str, Any]:
    """The tier of the tiny model; one of its hosts is this machine, under another name."""
    engine = {key: value for key, value in fast["engine"].items() if key not in TEXT_ONLY}
    return {
        **{key: value for key, value in fast.items() if key != "sha256sums"},
        "name": "vl",
        "model_id": "tiny-vl",
        "model_source": str(model),
        "modalities": ["text", "image"],
        "media": {"allowed_hosts": ["localhost", "127.0.0.1"], "images_max": 2},
        "engine": {**engine, "max_model_len": 4096},
        "env": {**fast["env"], "PYTHONPATH": f"{find_torchvision()}:{ROOT}"},
    }


@contextmanager
def inside() -> Iterator[tuple[int, list[str]]]:
    """A server of this machine that no engine may reach; it notes every connection."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def note() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                seen.append("connected")
                connection.close()

        thread = Thread(target=note, daemon=True)
        thread.start()
        yield server.getsockname()[1], seen
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def image_tokens(width: int, height: int) -> int:
    return GRIDS[Patches.QWEN2_5_VL].count_tokens(width, height) + IMAGE_MARKS


def test_an_image_goes_to_the_tier_that_sees(service: Service) -> None:
    """In all three dialects, by the official client too; text stays where it was."""
    client = openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="none", max_retries=0)
    raw = client.chat.completions.with_raw_response.create(
        model="auto",
        messages=ask_about(PICTURE),
        max_tokens=8,  # type: ignore[arg-type]
    )
    assert (raw.headers["x-route-tier"], raw.headers["x-route-reason"]) == ("vl", "only_tier")
    assert raw.parse().usage.completion_tokens > 0  # type: ignore[union-attr]

    content = [
        {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
        {"type": "input_text", "text": "What is on it?"},
    ]
    body = {"input": [{"role": "user", "content": content}], "max_output_tokens": 8}
    responses = httpx.post(f"{service.base_url}/v1/responses", json=body, timeout=60)
    assert responses.headers["x-route-tier"] == "vl", responses.text
    assert responses.status_code == 200, responses.text

    source = {"type": "base64", "media_type": "image/png", "data": PICTURE.partition(",")[2]}
    messages = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    body = {"model": "auto", "messages": messages, "max_tokens": 8}
    anthropic = httpx.post(f"{service.base_url}/v1/messages", json=body, timeout=60)
    assert anthropic.headers["x-route-tier"] == "vl", anthropic.text
    assert anthropic.status_code == 200, anthropic.text

    text = service.chat()
    assert (text.status_code, text.headers["x-route-tier"]) == (200, "fast")


def test_the_engine_counts_the_tokens_that_the_router_counts(service: Service) -> None:
    """The prompt with an image has exactly the image's tokens more than the prompt without."""
    for width, height in ((300, 200), (28, 28), (641, 479)):
        url = data_url(picture("JPEG", width, height), "jpeg")
        messages = ask_about(url)
        words = [{"role": "user", "content": messages[0]["content"][1:]}]
        counted = [
            service.chat(model="vl", messages=asked).json()["usage"]["prompt_tokens"]
            for asked in (messages, words)
        ]
        assert 0 <= counted[0] - counted[1] - image_tokens(width, height) <= 1  # a line break


@pytest.mark.parametrize(
    ("model", "url", "param", "words"),
    [
        ("fast", PICTURE, "messages[0].content.image_url", "modalities: [text, image]"),
        ("auto", data_url(png_head((60_000, 60_000))), "messages[0].content.image_url", "pixels"),
        ("auto", "data:image/png;base64,AAAA", "messages[0].content.image_url", "PNG, JPEG"),
        ("auto", "https://example.org/a.png", "messages[0].content.image_url", "localhost"),
        ("auto", "file:///etc/passwd", "messages[0].content.image_url", "https:"),
    ],
)
def test_what_no_tier_takes_is_refused(
    service: Service, model: str, url: str, param: str, words: str
) -> None:
    """With the field and the remedy, before an engine sees it."""
    answer = service.chat(model=model, messages=ask_about(url))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


def test_too_many_images_and_other_media_are_refused(service: Service) -> None:
    """By the bound of the tier, and by the field."""
    images = [{"role": "user", "content": [image_part(PICTURE)] * 3}]
    assert "at most 2 images" in service.chat(messages=images).json()["error"]["message"]
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    answer = service.chat(messages=[{"role": "user", "content": [sound]}])
    assert answer.json()["error"]["param"] == "messages[0].content.input_audio"


def test_no_url_makes_an_engine_reach_the_inside(service: Service) -> None:
    """Neither through the Router nor by a request that the Router would never send."""
    with inside() as (port, seen):
        for url in (f"https://127.0.0.1:{port}/a.png", f"http://localhost:{port}/a.png"):
            answer = service.chat(messages=ask_about(url))
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
        allowed = service.chat(messages=ask_about("https://localhost/a.png"))
        assert (allowed.status_code, allowed.headers["x-route-tier"]) == (400, "vl")
        assert allowed.json()["error"]["code"] == "invalid_image_url"
        with leased("tier-vl") as lease:
            for scheme in ("http", "https"):
                for kind in ("image_url", "video_url", "audio_url"):
                    part = {"type": kind, kind: {"url": f"{scheme}://127.0.0.1:{port}/a"}}
                    body = {"model": "tiny-vl", "messages": [{"role": "user", "content": [part]}]}
                    refused = lease.post("/v1/chat/completions", json.dumps(body).encode())
                    assert refused.status_code in (400, 422), refused.text
        assert seen == []
