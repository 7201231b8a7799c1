"""What keeps engines from starting on a node of a cluster."""

from __future__ import annotations

import pickle
from functools import partial

from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.engines import check_engines_here, find_engine_errors
from tests.offline.doctor.smi import FakeSmi, h100s

H100 = TierConfig(name="fast", model_id="m", accelerator_type="H100")
ANY = TierConfig(name="strong", model_id="n", engine={"tensor_parallel_size": 8})
OLD = FakeSmi(h100s(1, driver_version="570.133.20"))


def checks(tiers: list[TierConfig], smi: FakeSmi) -> set[str]:
    """The kinds of errors on a node with these cards."""
    return {found.check for found in find_engine_errors(tiers, {}, smi)} - {"compilers"}


def test_errors_of_a_node_are_told_and_warnings_are_not() -> None:
    """A card too few for a tier is fine on a node that is there for another tier."""
    assert checks([H100, ANY], OLD) == {"driver"}
    assert "GPUs" in {found.check for found in check_engines_here([ANY], {}, OLD)}


def test_a_node_is_judged_by_the_tiers_that_can_be_placed_there() -> None:
    """The driver of cards that no tier wants does not matter."""
    other = FakeSmi(h100s(1, name="NVIDIA L40S", driver_version="570.133.20"))
    assert checks([H100], other) == set()
    assert checks([H100, ANY], other) == {"driver"}


def test_a_node_without_gpus_has_no_errors() -> None:
    """The head, and nodes for Routers."""
    assert checks([H100, ANY], FakeSmi(missing=True)) == set()


def test_the_search_can_be_sent_to_a_node() -> None:
    """With the tiers, and with what it finds on the way back."""
    sent = pickle.loads(pickle.dumps(partial(find_engine_errors, [H100, ANY])))
    assert {"driver"} <= {found.check for found in pickle.loads(pickle.dumps(sent({}, OLD)))}
