"""Simulated faces are spread as measured, and libraries of any size name few strangers."""

from __future__ import annotations

import dlib_faces
import pytest

MEASURED = {  # shared/faces/dlib_distances.json: 15 people with 6 to 12 photos each, 398 strangers
    "same_person_any_pair 0.5": 0.427,
    "same_person_new_photo_to_nearest_of_4_keys 0.95": 0.493,
    "strangers_any_pair 0.01": 0.596,
    "strangers_to_nearest_of_one_persons_4_keys 0.001": 0.523,
}


def test_what_is_drawn_is_spread_as_what_was_measured() -> None:
    drawn = dlib_faces.quantiles(people=60)
    assert drawn == pytest.approx(MEASURED, abs=0.03)


@pytest.mark.parametrize("people", [10, 30])
def test_a_library_of_any_size_names_few_strangers(people: int) -> None:
    found = dlib_faces.dlib_faces(people)
    assert found[f"dlib_strangers_{people}"] <= 0.08
    assert found[f"dlib_wrong_{people}"] <= 0.005
    assert found[f"dlib_right_{people}"] >= 0.94
