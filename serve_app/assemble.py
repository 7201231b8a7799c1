"""Makes the steps that a config asks for, and keeps a step whose config has not changed.

A package is imported here, and only when a config asks for its step.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from importlib import import_module
from typing import Any

from serve_app.config.runtime import RuntimeConfig
from serve_app.steps import NO_STEPS, Part, Plan, Steps


def assemble(plan: Plan, old: Steps = NO_STEPS, old_plan: Plan | None = None) -> Steps:
    """The steps of a config, some of them taken over from `old`.

    Raises:
        ValueError: names the key that no step can be made of.
    """
    return Steps(
        access=_step("access", old.access, plan, old_plan),
        limiter=_step("limits", old.limiter, plan, old_plan),
        cache=_step("cache", old.cache, plan, old_plan),
        audit=_step("audit", old.audit, plan, old_plan),
        tracer=_step("traces", old.tracer, plan, old_plan),
        batches=_step("batches", old.batches, plan, old_plan),
        prices=plan.runtime.prices,
    )


class StepsOwner:
    """Owns the steps of a Router, and frees each of them once no call uses it any more."""

    def __init__(self, plan: Plan) -> None:
        """Raises ValueError for a key that no step can be made of."""
        self._plan = plan
        self.steps = assemble(plan)
        self._retired: dict[asyncio.TimerHandle, Part] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin the work in the background, in the running event loop."""
        for part in self.steps.parts:
            part.start()

    def prepare(self, runtime: RuntimeConfig) -> tuple[Plan, Steps]:
        """The steps of a new config, for `take`.

        Raises:
            ValueError: names the key that no step can be made of.
        """
        plan = replace(self._plan, runtime=runtime)
        return plan, assemble(plan, self.steps, self._plan)

    def take(self, plan: Plan, steps: Steps) -> None:
        """Use these steps from now on. A step that is no longer used is closed after the time that
        a call may take, because calls in flight keep their steps."""
        kept = {id(part) for part in steps.parts}
        retired = [part for part in self.steps.parts if id(part) not in kept]
        longest_s = self._plan.runtime.deadlines.total_s
        self._plan, self.steps = plan, steps
        self.start()
        for part in retired:
            self._retire(part, longest_s)

    def _retire(self, part: Part, after_s: float) -> None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            del self._retired[timer]
            closing = loop.create_task(part.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

        timer = loop.call_later(after_s, end)
        self._retired[timer] = part

    async def close(self) -> None:
        """Free the steps, the retired ones too."""
        for timer in self._retired:
            timer.cancel()
        parts = [*self._retired.values(), *self.steps.parts]
        self._retired.clear()
        await asyncio.gather(*(part.close() for part in parts), *self._closing)


def _step(name: str, old: Any, plan: Plan, old_plan: Plan | None) -> Any:
    """One step, None where the config does not ask for it.

    Each package has a module `build` with two functions: `needs(plan)` returns the values that the
    step is made of, None for no step, and `build(plan)` makes the step.
    """
    config = getattr(plan.runtime, name)
    if config is None or (name == "limits" and not config.limits_callers):
        return None
    package = import_module(f"serve_app.{name}.build")
    if old is not None and old_plan is not None and package.needs(plan) == package.needs(old_plan):
        return old
    return package.build(plan)
