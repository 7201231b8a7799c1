"""vLLM's names without vLLM, for processes whose engines are simulated.

ray.serve.llm imports vLLM for the types of its requests, which takes a process eight seconds of
CPU. No simulated replica uses one of these types.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from pydantic import BaseModel

from serve_app.config.engine_arguments import read_engine_arguments

NAMED = "vllm"
MISSING = frozenset({"torch", "transformers"})
"""Ray imports these too, and goes on without them."""


def make_class(name: str) -> type:
    """A class of this name; Ray looks at the fields of the engine's arguments."""
    if name == "AsyncEngineArgs":
        return make_dataclass(name, sorted(read_engine_arguments().names))
    if name == "FrontendArgs":
        return make_dataclass(name, ())
    return type(name, (BaseModel,), {"__module__": NAMED})


class StandIn(ModuleType):
    """A module that has a class of every name."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        found = make_class(name)
        setattr(self, name, found)
        return found


class StandInFinder(MetaPathFinder, Loader):
    """Finds `StandIn` for vLLM and its modules, and nothing for what is `MISSING`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A stand-in, an error, or None: the other finders look."""
        package = fullname.partition(".")[0]
        if package in MISSING:
            raise ModuleNotFoundError(f"{package} is left out of simulations", name=package)
        return ModuleSpec(fullname, self, is_package=True) if package == NAMED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty one."""
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def stand_in() -> None:
    """From now on, unless this process has imported vLLM itself."""
    if NAMED not in sys.modules:
        sys.meta_path.insert(0, StandInFinder())
