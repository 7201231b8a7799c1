"""The ledger and the files of one config, used from an event loop without blocking it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import ParamSpec, TypeVar

from serve_app.batches.file_store import FileSink, FileStore
from serve_app.batches.ledger import BatchLedger
from serve_app.batches.notices import NoticeBook, Post
from serve_app.config.batches import BatchesConfig

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4


class BatchStore:
    """The step `batches`: where files and batches are kept."""

    def __init__(
        self,
        config: BatchesConfig,
        ledger: BatchLedger,
        files: FileStore,
        notices: NoticeBook,
        posts: Mapping[str, Post],
    ) -> None:
        """`posts` holds the receivers of events by their names."""
        self.config = config
        self.ledger = ledger
        self.files = files
        self.notices = notices
        self.posts = posts
        self.more = asyncio.Event()
        """Set where there may be new work."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="batches")

    def start(self) -> None:
        """The threads start with the first work."""

    async def close(self) -> None:
        """Wait for the work in the threads, and close the ledger."""
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self.ledger.close)

    @asynccontextmanager
    async def create(self, file_id: str, writer: str) -> AsyncIterator[FileSink]:
        """Write a file, as `FileStore.create` does; `write` blocks, so it belongs into `run`."""
        manager = self.files.create(file_id, writer)
        sink = await self.run(manager.__enter__)
        try:
            yield sink
        except BaseException as error:
            with suppress(type(error)):
                await self.run(manager.__exit__, type(error), error, error.__traceback__)
            raise
        await self.run(manager.__exit__, None, None, None)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work that blocks."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(work, *args, **kwargs))
