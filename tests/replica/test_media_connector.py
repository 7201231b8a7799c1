"""vLLM's own code for remote media is closed, whatever a Router lets pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from vllm import envs
from vllm.exceptions import VLLMUnprocessableEntityError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from serve_app.config.tiers import TierConfig
from serve_app.deploy.build import plan_media
from serve_app.deploy.plan import plan_llm_config
from serve_app.replica.image_fetch import ImageFetcher, MediaPlan
from serve_app.replica.media_connector import CONNECTOR, CheckedConnector, install_connector
from tests.pictures import data_url, picture, png_head

TIER = TierConfig.model_validate(
    {
        "name": "vl",
        "model_id": "m",
        "modalities": ["text", "image"],
        "media": {"allowed_hosts": ["good.org"], "image_pixels_max": 10_000},
        "env": {"VLLM_MEDIA_CONNECTOR": "http", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "1", "A": "1"},
    }
)
WAYS = ("fetch_image", "fetch_audio", "fetch_video")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that a replica gets."""
    for name, value in plan_llm_config(TIER)["runtime_env"]["env_vars"].items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def port() -> AsyncIterator[tuple[int, list[object]]]:
    """A port on which any connection is noted."""
    seen: list[object] = []

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer)
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


def connector(plan: MediaPlan | None = None) -> MediaConnector:
    """As vLLM's `chat_utils` makes it for each request."""
    install_connector(plan or MediaPlan())
    return MEDIA_CONNECTOR_REGISTRY.load(
        envs.VLLM_MEDIA_CONNECTOR,
        media_io_kwargs=None,
        allowed_local_media_path="",
        allowed_media_domains=["media.invalid"],
    )


def test_a_tiers_environment_cannot_open_vllms_own_way(environment: None) -> None:
    """Other variables stay."""
    env = plan_llm_config(TIER)["runtime_env"]["env_vars"]
    assert env["A"] == "1"
    assert env["VLLM_MEDIA_CONNECTOR"] == CONNECTOR
    assert envs.VLLM_MEDIA_URL_ALLOW_REDIRECTS is False
    assert envs.VLLM_MAX_IMAGE_PIXELS == 10_000
    assert isinstance(connector(), CheckedConnector)


async def test_images_of_the_body_are_read(environment: None) -> None:
    """By vLLM's own decoder, and only within the tier's pixels."""
    image = await connector().fetch_image_async(data_url(picture()))
    assert image.size == (40, 30)
    with pytest.raises(ValueError, match="pixels"):
        await connector().fetch_image_async(data_url(png_head((5000, 5000))))
    with pytest.raises(ValueError, match="pixels"):
        connector().fetch_image(data_url(png_head((5000, 5000))))


async def test_a_second_header_cannot_hide_the_size(environment: None) -> None:
    """Pillow obeys the last `IHDR` of a PNG, the Router reads the first, and vLLM checks again."""
    bomb = png_head((10, 10), (5000, 5000))
    with pytest.raises(ValueError, match="pixels"):
        await connector().fetch_image_async(data_url(bomb))


async def test_pillows_own_bound_is_the_clients_error(environment: None) -> None:
    """Pillow raises at twice its bound, with an error that vLLM does not expect."""
    with pytest.raises(VLLMUnprocessableEntityError, match="too many pixels"):
        await connector().fetch_image_async(data_url(png_head((60_000, 60_000))))


@pytest.mark.parametrize("way", WAYS)
async def test_no_way_of_vllm_connects(
    environment: None, port: tuple[int, list[object]], way: str
) -> None:
    """Neither for images, sounds nor videos, by both of its ways and both schemes."""
    number, seen = port
    plan = MediaPlan(hosts=("127.0.0.1", "localhost"), bytes_max=1000, pixels_max=1000)
    for host in ("127.0.0.1", "localhost"):
        for scheme in ("http", "https"):
            url = f"{scheme}://{host}:{number}/"
            later: Callable[[str], Awaitable[Any]] = getattr(connector(plan), f"{way}_async")
            with pytest.raises(VLLMUnprocessableEntityError, match="Failed to fetch"):
                await later(url)
            with pytest.raises(VLLMUnprocessableEntityError, match="Failed to fetch"):
                await asyncio.to_thread(getattr(connector(plan), way), url)
    assert seen == []


@pytest.mark.parametrize("way", WAYS)
async def test_files_are_not_read(environment: None, way: str) -> None:
    """Although vLLM's own argument could allow a directory."""
    opened = CheckedConnector(ImageFetcher(MediaPlan()), None, allowed_local_media_path="/etc")
    with pytest.raises(VLLMUnprocessableEntityError, match="Failed to fetch"):
        await getattr(opened, f"{way}_async")("file:///etc/hostname")
    with pytest.raises(VLLMUnprocessableEntityError, match="Failed to fetch"):
        getattr(opened, way)("file:///etc/hostname")


def test_without_our_class_nothing_opens(environment: None, monkeypatch: Any) -> None:
    """vLLM fails at an image if nothing has registered the name that it was given."""
    monkeypatch.delitem(MEDIA_CONNECTOR_REGISTRY.name2class, CONNECTOR, raising=False)
    with pytest.raises(AssertionError, match="not found"):
        MEDIA_CONNECTOR_REGISTRY.load(envs.VLLM_MEDIA_CONNECTOR)


def test_vllms_own_arguments_are_closed_too() -> None:
    """Its list of hosts is never empty, because an empty list allows all hosts."""
    text = TierConfig.model_validate({"name": "fast", "model_id": "m"})
    closed = TIER.model_copy(update={"media": text.media})
    assert plan_llm_config(text)["engine_kwargs"] == {"allowed_media_domains": ["media.invalid"]}
    assert plan_llm_config(closed)["engine_kwargs"]["allowed_media_domains"] == ["media.invalid"]
    opened = plan_llm_config(TIER)["engine_kwargs"]
    assert opened["allowed_media_domains"] == ["good.org"]
    assert opened["limit_mm_per_prompt"] == {"image": 16, "video": 0}


def test_a_replica_gets_the_tiers_bounds() -> None:
    """Everything that its fetcher holds to."""
    assert plan_media(TIER) == MediaPlan(("good.org",), (), 10 * 1024**2, 10_000, 5)
