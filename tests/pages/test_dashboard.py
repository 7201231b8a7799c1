"""The dashboard in a real browser: numbers that move, of every Router, and what is wrong."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serve_app.core.load import BreakerState, TierLoad
from serve_app.pages.numbers import RouterNumbers, Totals
from tests.pages.site import Site, running_site

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALL = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


async def ask(site: Site, times: int = 1, model: str = "auto") -> None:
    """Calls from another client than the page."""
    async with httpx.AsyncClient() as client:
        for _ in range(times):
            answer = await client.post(
                f"{site.url}/v1/chat/completions", json={**CALL, "model": model}
            )
            assert answer.status_code == 200


async def open_dashboard(tab: Any, site: Site) -> None:
    await tab.goto(f"{site.url}/dashboard")
    await tab.locator("#tiers table").wait_for()


def add_router(site: Site, name: str = "router-b") -> None:
    """A second Router that has had the same calls as the first."""

    async def read() -> RouterNumbers:
        own = site.numbers.read()
        return replace(own, router=name, in_flight=3, totals=Totals(calls=own.totals.calls + 100))

    site.others.append(read)


async def test_the_numbers_move(tab: Any) -> None:
    """Calls that end while the page is open appear on it: decisions, chart, tokens and saving."""
    async with running_site() as site:
        await open_dashboard(tab, site)
        await tab.locator("#decisions").get_by_text("No calls yet.").wait_for()
        await ask(site, 2)
        await ask(site, 1, "strong")
        figures = tab.locator("#figures")
        await figures.get_by_text("3 since the start").wait_for()
        await tab.locator("#decisions").get_by_text("simple").wait_for()
        assert await tab.locator("#decisions .count").all_text_contents() == ["2", "1"]
        chart = await tab.locator("#chart svg").get_attribute("aria-label")
        assert chart.startswith("3 calls ended in the last minutes")
        # 20 and 3 tokens, twice at 0.1 and 0.4 and once at 1 and 4, against thrice at 1 and 4;
        # nothing is saved where the client named the model.
        assert "€0.0000384" in await figures.text_content()
        assert "€0.0000576" in await figures.text_content()
        assert await tab.locator("#slow tbody tr").count() == 3
        await ask(site, 1)
        await figures.get_by_text("4 since the start").wait_for()


async def test_every_router_is_in_the_sums(tab: Any) -> None:
    """Its calls and its leases; a Router that does not answer is missed by name of its number."""
    async with running_site() as site:
        add_router(site)
        site.fast.open_leases = 2
        await ask(site, 1)
        await open_dashboard(tab, site)
        await tab.locator("#live").get_by_text("2 of 2 Routers").wait_for()
        assert "102 since the start" in await tab.locator("#figures").text_content()
        cells = await tab.locator("#tiers tbody tr").first.locator("td").all_text_contents()
        assert cells[3] == "4"
        rows = await tab.locator("#routers tbody tr").all_text_contents()
        assert [row.split("router-")[1][0] for row in rows] == ["a", "b"]

        async def hang() -> RouterNumbers:
            await asyncio.Event().wait()
            raise AssertionError

        site.others.append(hang)
        await tab.locator("#troubles").get_by_text("1 Router does not answer").wait_for()
        assert "2 of 3 Routers" in await tab.locator("#live").text_content()


async def test_the_engines_of_a_tier(tab: Any) -> None:
    """Their queues, and the used part of their KV caches, each engine once."""
    async with running_site() as site:
        add_router(site)
        site.strong.engines = [("10.0.0.1:1", 3, 1, 0.25), ("10.0.0.2:1", 5, 0, 0.75)]
        await open_dashboard(tab, site)
        assert site.strong.watched
        engines = tab.locator("#tiers tr.engine")
        await engines.nth(1).wait_for()
        assert await engines.count() == 2
        cells = await tab.locator("#tiers tbody tr").nth(1).locator("td").all_text_contents()
        assert cells[5:8] == ["8", "1", "50.0 %"]


async def test_a_tier_that_is_down(tab: Any) -> None:
    """The page says so, keeps working, and says when the tier is back."""
    async with running_site() as site:
        ready = site.states.states
        why = "2 replicas have no place: no node has 4 free GPUs"
        down = replace(ready[1], ready=False, replicas=0, status="UPDATING", message=why)
        site.states.states = [ready[0], down]
        site.strong.state = TierLoad(down=True, breaker=BreakerState.OPEN)
        await open_dashboard(tab, site)
        troubles = tab.locator("#troubles")
        await troubles.get_by_text(f"Tier strong is not ready (updating). {why}").wait_for()
        await ask(site, 1)
        await tab.locator("#figures").get_by_text("1 since the start").wait_for()
        site.states.states = ready
        await troubles.get_by_text("Tier strong does not answer 1 of 1 Routers.").wait_for()
        site.strong.state = TierLoad()
        await troubles.get_by_text("strong").wait_for(state="detached")


async def test_without_serve_the_old_states_stay(tab: Any) -> None:
    """The page says that the states are old, and the other numbers go on."""
    async with running_site() as site:

        async def fail() -> Any:
            raise OSError

        site.states.tiers = fail  # type: ignore[method-assign]
        await open_dashboard(tab, site)
        await tab.locator("#troubles").get_by_text("controller does not answer").wait_for()
        await ask(site, 1)
        await tab.locator("#figures").get_by_text("1 since the start").wait_for()


async def test_a_lost_connection_is_made_again(tab: Any) -> None:
    """The page says that it has none, keeps its last numbers, and goes on by itself."""
    async with running_site() as site:
        await open_dashboard(tab, site)
        await tab.context.set_offline(True)
        await tab.locator("#pause").click()
        await tab.locator("#pause").click()
    await tab.locator("#live").get_by_text("No connection, trying again").wait_for()
    assert await tab.locator("#tiers table").count() == 1


async def test_a_closed_page_costs_nothing(browser: Any) -> None:
    """The Routers are asked no more once the last page is gone."""
    async with running_site() as site:
        tab = await browser.new_page()
        await open_dashboard(tab, site)
        assert site.watch is not None
        assert site.watch._task is not None
        await tab.close()
        while site.watch._task is not None:
            await asyncio.sleep(0.01)


async def test_only_who_may_watch_sees_the_numbers(tab: Any) -> None:
    """A user is told so; an operator and an admin see them."""
    async with running_site(guarded=True) as site:
        await tab.goto(f"{site.url}/dashboard")
        dialog = tab.get_by_role("dialog")
        await dialog.get_by_label("API key or token").fill("user")
        await tab.keyboard.press("Enter")
        await tab.get_by_text("You are not allowed to watch the dashboard.").wait_for()
        await tab.get_by_role("button", name="Forget the key").click()
        await dialog.get_by_label("API key or token").fill("operator")
        await tab.keyboard.press("Enter")
        await tab.locator("#tiers table").wait_for()
