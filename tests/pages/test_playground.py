"""The playground in a real browser: a question, a streamed answer, and what it says of it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import TierUnavailable
from tests.pages.site import Site, running_site

QUESTION = "What is the capital of France?"


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def open_playground(tab: Any, site: Site) -> None:
    await tab.goto(f"{site.url}/playground")
    await tab.locator("#modes input").first.wait_for(state="attached")


async def ask(tab: Any, text: str = QUESTION) -> Any:
    """Type a question; the last answer."""
    await tab.locator("#question").fill(text)
    await tab.keyboard.press("Enter")
    return tab.locator(".answer").last


async def choose(tab: Any, mode: str) -> None:
    await tab.locator(f'#modes label:has(input[value="{mode}"])').click()


async def test_an_answer_streams_and_says_who_wrote_it(tab: Any) -> None:
    """The first words are there while the rest is still to come; then tier, score and price."""
    async with running_site() as site:
        site.fast.gate.clear()
        await open_playground(tab, site)
        answer = await ask(tab)
        await answer.get_by_text("The capital", exact=True).wait_for()
        assert await answer.locator("[aria-busy=true]").count() == 1
        assert await answer.locator(".badge").first.text_content() == "fast"
        site.fast.gate.set()
        await answer.locator(".figures").wait_for()
        assert await answer.locator(".body").text_content() == "The capital of France is Paris."
        assert await answer.locator("strong").text_content() == "Paris"
        text = await answer.locator(".facts").text_content()
        assert re.search(r"score 0\.\d\d, threshold 0\.50", text)
        assert "20 in, 3 out" in text
        assert "First token" in text
        # 20 and 3 tokens at 0.1 and 0.4, and at 1 and 4, for a million.
        assert "€0.0000032" in text
        assert "€0.000032 (90 % saved)" in text
        assert "90 % saved" in await tab.locator("#tally").text_content()


async def test_a_question_before_the_page_is_ready_waits(tab: Any) -> None:
    """A reader who presses Enter before the service said what it is gets the answer once."""
    facts = asyncio.Event()

    async def late(route: Any) -> None:
        await facts.wait()
        await route.continue_()

    async with running_site() as site:
        await tab.route("**/playground/facts", late)
        await tab.goto(f"{site.url}/playground")
        answer = await ask(tab)
        await tab.keyboard.press("Enter")
        facts.set()
        await answer.locator(".figures").wait_for()
        assert len(site.fast.bodies) == 1


async def test_the_conversation_goes_on(tab: Any) -> None:
    """The next call has the earlier question and answer; a new conversation has neither."""
    async with running_site() as site:
        await open_playground(tab, site)
        await (await ask(tab)).locator(".figures").wait_for()
        await (await ask(tab, "And of Italy?")).locator(".figures").wait_for()
        roles = [message["role"] for message in site.fast.bodies[-1]["messages"]]
        assert roles == ["user", "assistant", "user"]
        await tab.get_by_role("button", name="New conversation").click()
        assert await tab.locator(".turn").count() == 0
        await (await ask(tab)).locator(".figures").wait_for()
        assert len(site.fast.bodies[-1]["messages"]) == 1


async def test_two_models_side_by_side(tab: Any) -> None:
    """Both answer; the conversation goes on with the answer that the reader picks."""
    async with running_site() as site:
        await open_playground(tab, site)
        await choose(tab, "compare")
        await ask(tab)
        await tab.locator(".acts:not([hidden])").nth(1).wait_for()
        badges = await tab.locator(".answer .who .badge").all_text_contents()
        assert badges == ["fast", "strong"]
        await tab.get_by_label("Go on with this answer").first.check()
        await choose(tab, "tier-strong")
        await (await ask(tab, "Why?")).locator(".figures").wait_for()
        assert "Paris" in site.strong.bodies[-1]["messages"][1]["content"]


async def test_a_cascade_shows_its_draft(tab: Any) -> None:
    """An unsure draft is crossed out; its tokens are part of the price."""
    async with running_site() as site:
        site.fast.report = b'{"prompt_tokens":20,"completion_tokens":16,"logprobs":[[-3.0,-4.0]]}'
        await open_playground(tab, site)
        await choose(tab, "cascade")
        answer = await ask(tab)
        await answer.locator(".figures").wait_for()
        steps = await answer.locator(".cascade li").all_text_contents()
        assert re.fullmatch(r"fast drafted, P\(right\) 0\.\d\d", steps[0])
        assert steps[1] == "strong took over"
        assert "with the draft" in await answer.locator(".figures").text_content()


async def test_thumbs_are_feedback(tab: Any, tmp_path: Path) -> None:
    """They send the id of the answer; without a directory they are off and say why."""
    async with running_site(feedback_dir=str(tmp_path)) as site:
        await open_playground(tab, site)
        answer = await ask(tab)
        sent = tab.expect_request("**/v1/feedback")
        async with sent as request:
            await answer.get_by_role("button", name="Right").click()
        posted = (await request.value).post_data_json
        assert posted == {"request_id": site.records[0].request_id, "right": True}
        await answer.get_by_text("Thank you").wait_for()
    async with running_site() as site:
        await open_playground(tab, site)
        answer = await ask(tab)
        await answer.locator(".figures").wait_for()
        assert await answer.get_by_role("button", name="Right").is_disabled()


HOSTILE = (
    "<img src=x onerror=alert(1)> <script>alert(2)</script> [click](javascript:alert(3)) "
    "[ok](https://example.org/a_b) ![pic](https://example.org/p.png) **bold <b>x</b>**\n\n"
    "```html\n<script>alert(4)</script>\n```\n\n| a | b |\n|---|---|\n| <i>1</i> | 2 |\n"
)


async def test_the_text_of_a_model_stays_text(tab: Any) -> None:
    """No element, script, picture or address of a model's choice comes into the page."""
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("dialog", lambda dialog: pytest.fail("a script of the model ran"))
    async with running_site() as site:
        site.fast.words = [HOSTILE]
        await open_playground(tab, site)
        answer = await ask(tab)
        await answer.locator(".figures").wait_for()
        body = answer.locator(".body")
        assert await body.locator("img, script, b, i").count() == 0
        links = await body.locator("a").evaluate_all("all => all.map(one => one.href)")
        assert links == ["https://example.org/a_b", "https://example.org/p.png"]
        assert await body.locator("pre").text_content() == "<script>alert(4)</script>"
        assert await body.locator("td").first.text_content() == "<i>1</i>"
        assert {url.split("/")[2] for url in asked} == {site.url.split("/")[2]}


DEEP = ("> " * 500 + "x\n" + "- " * 500 + "x\n" + "**_~~" * 3000 + "[" * 20000 + "\n") * 2


async def test_no_text_of_a_model_hangs_the_page(tab: Any) -> None:
    """Nesting is bounded, and each scan of the text is short."""
    async with running_site() as site:
        site.fast.words = [DEEP]
        await open_playground(tab, site)
        answer = await ask(tab)
        await answer.locator(".figures").wait_for()
        assert len(await answer.locator(".body").text_content()) > 30_000


async def test_a_failed_call_says_why(tab: Any) -> None:
    """The service's own message is shown, and the next call works."""
    async with running_site() as site:
        site.fast.error = site.strong.error = TierUnavailable(retry_after_s=7)
        await open_playground(tab, site)
        answer = await ask(tab)
        alert = answer.get_by_role("alert")
        await alert.wait_for()
        assert "Try again in 7 s." in await alert.text_content()
        site.fast.error = None
        await (await ask(tab)).locator(".figures").wait_for()


async def test_escape_stops_the_answer(tab: Any) -> None:
    """The connection is closed, so the engine stops too; what has come stays."""
    async with running_site() as site:
        site.fast.gate.clear()
        await open_playground(tab, site)
        answer = await ask(tab)
        await answer.get_by_text("The capital", exact=True).wait_for()
        await tab.keyboard.press("Escape")
        await tab.get_by_role("button", name="Send").wait_for()
        assert await answer.locator(".body").text_content() == "The capital"
        site.fast.gate.set()


async def test_the_keyboard_is_enough(tab: Any) -> None:
    """Alt and a number choose who answers; `/` leads back to the question."""
    async with running_site() as site:
        await open_playground(tab, site)
        await tab.keyboard.press("Alt+4")
        answer = await ask(tab)
        await answer.locator(".figures").wait_for()
        assert await answer.locator(".badge").first.text_content() == "strong"
        await tab.locator("#theme").focus()
        await tab.keyboard.press("Enter")
        await tab.keyboard.press("/")
        assert await tab.locator("#question").evaluate("it => it === document.activeElement")


async def test_a_key_is_asked_for_and_stays_in_the_tab(browser: Any, tab: Any) -> None:
    """A wrong key is asked for again; another tab knows nothing of the right one."""
    async with running_site(guarded=True) as site:
        await tab.goto(f"{site.url}/playground")
        dialog = tab.get_by_role("dialog")
        await dialog.wait_for()
        await tab.keyboard.press("Escape")
        for key in ("wrong", "user"):
            await dialog.get_by_label("API key or token").fill(key)
            await tab.keyboard.press("Enter")
            if key == "wrong":
                await dialog.get_by_text("That key is not valid").wait_for()
        await (await ask(tab)).locator(".figures").wait_for()
        # A user without overrides has no header for the cascade, and no dashboard.
        assert await tab.locator('#modes input[value="cascade"]').count() == 0
        assert await tab.locator("#to-dashboard").is_hidden()
        kept = await tab.evaluate(
            "() => [sessionStorage.length, localStorage.length, document.cookie]"
        )
        assert kept == [1, 0, ""]
        await tab.reload()
        await tab.locator("#modes input").first.wait_for(state="attached")
        await tab.get_by_role("button", name="Forget the key").click()
        await dialog.wait_for()


async def test_dark_and_light(browser: Any) -> None:
    """As the system says, until the reader chooses; the choice stays."""
    async with running_site() as site:
        tab = await browser.new_page(color_scheme="dark")
        await open_playground(tab, site)
        ground = "() => getComputedStyle(document.body).backgroundColor"
        dark = await tab.evaluate(ground)
        await tab.get_by_role("button", name="Switch to light colours").click()
        light = await tab.evaluate(ground)
        assert dark != light
        await tab.reload()
        assert await tab.evaluate(ground) == light
