"""The table of what labels at random and chosen labels are worth."""

from __future__ import annotations

import label_curve
import numpy as np
import pytest

from tests.offline.learning.fakes import draw_records


@pytest.fixture(scope="module")
def pool() -> label_curve.Pool:
    """Of two hundred calls."""
    return label_curve.build_pool(draw_records(200).items, singular=8)


def test_a_size_has_a_row(pool: label_curve.Pool) -> None:
    """Both ways are measured on the same splits; a size beyond the questions has no row."""
    sizes = (20, 60, 1000)
    found = [list(label_curve.measure_split(pool, 20, seed, sizes)) for seed in (0, 1)]
    rows = list(label_curve.render(np.array(found), sizes))
    assert [row.split(" | ")[0] for row in rows] == ["| 20", "| 60"]
    assert all(row.count("±") == 3 for row in rows)


def test_no_label_is_made_twice(pool: label_curve.Pool) -> None:
    """Batches begin at random, and go on until every question has its label."""
    rows = np.arange(0, 200, 2)
    densities = label_curve.measure_densities(pool.views[rows])
    drawn, chosen = (
        list(label_curve.label(pool, rows, 30, 0, given)) for given in (None, densities)
    )
    assert sorted(chosen[-1]) == sorted(drawn[-1]) == rows.tolist()
    assert (drawn[0] == chosen[0]).all()
    assert set(drawn[1]) != set(chosen[1])


def test_doubt_is_less_where_labels_are(pool: label_curve.Pool) -> None:
    """A question is less open after it and others like it have been labelled."""
    rows = np.arange(10)
    few = label_curve.measure_doubt(pool, np.arange(100, 110), rows)
    assert (label_curve.measure_doubt(pool, np.arange(100), rows) < few).mean() > 0.8
