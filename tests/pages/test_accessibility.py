"""axe-core's checks of both pages: names, roles, contrast, keyboard."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.core.errors import TierUnavailable
from tests.pages.site import running_site

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


async def check(page: Any, axe: str) -> None:
    """No rule of WCAG 2.2 AA is broken, nor one that axe recommends beside them."""
    await page.evaluate(axe)
    options = {"runOnly": RULES, "resultTypes": ["violations"]}
    found = await page.evaluate("options => axe.run(document, options)", options)
    broken = [
        (violation["id"], violation["impact"], node["html"], node["failureSummary"])
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
    assert broken == []


async def open_tab(browser: Any, scheme: str) -> Any:
    """A tab in these colours. The policy of the pages would let no script of axe's in."""
    context = await browser.new_context(color_scheme=scheme, bypass_csp=True)
    return await context.new_page()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_playground(browser: Any, axe: str, scheme: str) -> None:
    """Before the first question, with two answers side by side, and with an error."""
    async with running_site() as site:
        tab = await open_tab(browser, scheme)
        await tab.goto(f"{site.url}/playground")
        await tab.locator("#modes input").first.wait_for(state="attached")
        await check(tab, axe)
        await tab.keyboard.press("Alt+5")
        await tab.locator("#question").fill("Hi")
        await tab.keyboard.press("Enter")
        await tab.locator(".acts:not([hidden])").nth(1).wait_for()
        site.fast.error = TierUnavailable(retry_after_s=7)
        await tab.locator("#question").fill("Hi")
        await tab.keyboard.press("Enter")
        await tab.get_by_role("alert").first.wait_for()
        await tab.locator(".acts:not([hidden])").nth(2).wait_for()
        await check(tab, axe)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_dashboard(browser: Any, axe: str, scheme: str) -> None:
    """With engines, a tier that is down, and calls."""
    async with running_site() as site:
        site.fast.engines = [("10.0.0.1:1", 3, 1, 0.25), ("10.0.0.2:1", 5, 0, 0.99)]
        site.strong.state = site.strong.state.__class__(down=True)
        tab = await open_tab(browser, scheme)
        await tab.goto(f"{site.url}/dashboard")
        await tab.locator("#troubles .note").first.wait_for()
        await check(tab, axe)


async def test_the_dialog_for_the_key(browser: Any, axe: str) -> None:
    """It holds the focus."""
    async with running_site(guarded=True) as site:
        tab = await open_tab(browser, "light")
        await tab.goto(f"{site.url}/playground")
        field = tab.get_by_label("API key or token")
        await field.wait_for()
        assert await field.evaluate("it => it === document.activeElement")
        await check(tab, axe)
