"""Unknown names are answered with the nearest valid one."""

import pytest

from mm.naming import hint, known


def test_a_known_name_comes_back_and_an_unknown_one_is_told_its_neighbour() -> None:
    names = {"image": 1, "text": 2}
    assert known("text", names, "modality") == "text"
    with pytest.raises(ValueError, match=r"unknown modality 'imgae'. Choose from: image, text. Did you mean 'image'\?"):
        known("imgae", names, "modality")
    with pytest.raises(ValueError, match=r"Choose from: image, text\.$"):
        known("xyz", names, "modality")
    assert hint("txet", names) == " Did you mean 'text'?" and hint("q", names) == "" and hint(3, []) == ""
