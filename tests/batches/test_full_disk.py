"""What clients and receivers see of a disk that is full: errors with a remedy, and nothing lost."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from serve_app.batches.sender import NoticeSender
from tests.batches.disk import fill
from tests.batches.receiver import SECRET, open_receiver, until
from tests.gateway.test_batches import CHAT, Place, line, open_place


async def check_refused(place: Place, file_id: str) -> None:
    """Each request that would keep something gets 503, with the time after which to ask again."""
    long = [line(n, user="x" * 1000) for n in range(50)]
    for ask in (
        lambda: place.upload(long),
        lambda: place.client.batches.create(
            input_file_id=file_id, endpoint=CHAT, completion_window="24h"
        ),
        lambda: place.client.responses.create(input="Hello", background=True),
    ):
        with pytest.raises(openai.InternalServerError) as refused:
            await ask()
        assert (refused.value.status_code, refused.value.code) == (503, "storage_unavailable")
        assert refused.value.response.headers["retry-after"]


async def test_nothing_is_kept_by_halves(small_disk: Path) -> None:
    """A refused upload leaves no file; what was there can be read, and all goes on with room."""
    async with open_place(small_disk) as place:
        file_id = await place.upload([line(1)])
        ballast = fill(small_disk)
        await check_refused(place, file_id)
        assert [found.id for found in (await place.client.files.list()).data] == [file_id]
        assert not (await place.client.batches.list()).data
        assert [path.name for path in (small_disk / "batches/files").iterdir()] == [file_id]
        ballast.unlink()
        batch = await place.end(await place.start([line(n) for n in range(9)]))
        assert (batch.status, len(await place.lines(batch.output_file_id))) == ("completed", 9)


async def test_an_event_that_cannot_be_forgotten_comes_again(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the same id, once there is room for the note that it has arrived."""
    (tmp_path / "secret").write_text(SECRET)
    async with open_receiver() as receiver:
        hook = receiver.hook(secret={"file": str(tmp_path / "secret")})
        keys = {"webhooks": [hook], "delivery": {"answer_s": 2.0}}
        async with open_place(small_disk, **keys) as place:
            await place.end(await place.start([line(1)]))
            receiver.taken = lambda: fill(small_disk)
            sender = NoticeSender(lambda: place.store, lambda *_: None, poll_s=0.02)
            sender.start()
            await until(lambda: "waits for the ledger" in caplog.text)
            receiver.taken = lambda: None
            (small_disk / "ballast").unlink()
            await until(lambda: not place.store.notices.waiting())
            await sender.close()
    assert [one.unwrap().type for one in receiver.requests] == ["batch.completed"] * 2
    assert len({one.event_id for one in receiver.requests}) == 1
