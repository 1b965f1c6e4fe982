"""A report on an index: its numbers are those of their definitions, and nothing stops it."""

import json

import numpy as np
import pytest

from mm.index import Index, analysis
from mm.index.report import table
from mm.index.report.comparison import compared
from mm.index.report.measures import look
from mm.index.report.spaces import label_key, short_names, spaces_of
from mm.index.report.words import typical
from tests.index.spaces import LABELS, joint, normal, of_joint, plain, report_of
from tests.shared import unit


def numbers_of(path, label="label", k=5):
    """The numbers of one index and the notes, without a figure."""
    (space,) = spaces_of([path] if isinstance(path, str) else path, k)
    found = look(space, label, 0)
    json.dumps(found.numbers, allow_nan=False)
    return found.numbers, found.notes


def likeness_of(paths, k=5):
    """Overlap and CKA of two indexes, and the notes."""
    first, second = (look(space, None, 0) for space in spaces_of(paths, k))
    overlap, cka = compared(first, second)
    return overlap, cka, first.notes


# Numbers --------------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_vectors(tmp_path):
    images, texts, which = joint()
    report, notes = numbers_of(of_joint(tmp_path / "space"))
    gap = report["modality_gap"]["image_text"]
    assert gap["distance"] == pytest.approx(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)), abs=1e-6)
    assert gap["relative"] == pytest.approx(gap["distance"] / np.mean(list(gap["spread"].values())))
    assert gap["separability"] > 0.75
    squares = ((np.repeat(images, 2, axis=0) - texts) ** 2).sum(axis=1)
    alignment = report["alignment"]["image_text"]
    assert alignment["alignment"] == pytest.approx(squares.mean(), abs=1e-6) and alignment["pairs"] == 120
    assert alignment["shift"] == pytest.approx(gap["distance"] ** 2 / squares.mean(), abs=1e-5)
    cosines = images @ texts.T  # (60, 120)
    places = [1 + (row > max(row[2 * k], row[2 * k + 1])).sum() for k, row in enumerate(cosines)]
    ranks = report["ranks"]["image_to_text"]
    assert ranks["R@1"] == pytest.approx(np.mean(np.array(places) == 1)) and ranks["median"] == np.median(places)
    assert ranks["worst"][0] == {"id": f"image:{np.argmax(places)}", "place": max(places)}
    counts = np.bincount(np.argsort(-cosines, axis=1)[:, :5].ravel(), minlength=120)
    hubs = report["hubness"]["image_to_text"]
    assert hubs["antihubs"] == np.mean(counts == 0) and hubs["most"] == counts.max()
    mine = [set(row) for row in np.argsort(-cosines, axis=1)[:, :5].tolist()]
    assert hubs["by_partners"] == np.mean([text in mine[text // 2] for text in range(120)])
    inside = images @ images.T - 3 * np.eye(60)
    same = which[np.argsort(-inside, axis=1)[:, :5]] == which[:, None]
    pure = report["purity"]["image"]
    assert pure["purity"] == pytest.approx(same.mean()) and pure["chance"] == pytest.approx(19 / 59)
    assert pure["labels"] == 3
    assert report["uniformity"]["text"] == pytest.approx(analysis.uniformity(texts), abs=1e-5)
    assert notes == []


def test_closing_the_gap_finds_what_it_hid(tmp_path):
    """Partners that a shift of one modality has driven apart are found again once the means are taken away."""
    vectors = unit(200, 8)
    moved = normal(vectors + np.array([3.0, *[0] * 7]) * (np.arange(200) % 2)[:, None])  # every second one, far away
    items = [{"item": str(k)} for k in range(200)]
    index = Index.build(vectors, [f"image:{k}" for k in range(200)], items, modality="image")
    index.add(normal(moved + np.array([2.0, *[0] * 7])), [f"text:{k}" for k in range(200)], items, modality="text")
    index.save(tmp_path / "space")
    ranks = numbers_of(str(tmp_path / "space"), None)[0]["ranks"]["text_to_image"]
    assert ranks["gap_closed"]["R@1"] > ranks["R@1"] + 0.1


def test_planted_duplicates_of_different_items_are_told_from_those_of_one(tmp_path):
    vectors = np.concatenate([unit(50, 32), unit(4, 32)])  # 50..53 are 0..3 again
    items = [{"item": "one" if row in (1, 51) else str(row)} for row in range(54)]
    found = numbers_of(plain(tmp_path / "i", vectors, items), None)[0]["duplicates"]["items"]["equal"]
    assert found["groups"] == 4 and found["items"] == 8 and found["of_several_items"] == 3
    assert found["largest"] == [[0, 50], [2, 52], [3, 53]]


def test_clusters_are_described_by_their_words(tmp_path):
    report, _ = numbers_of(of_joint(tmp_path / "i"))
    clusters = report["clusters"]["image"]
    assert sum(one["items"] for one in clusters) == 60
    pure = [one for one in clusters if one["items"] > 1 and one["labels"][0]["share"] == 1]
    assert len(pure) > 5 and all(one["words"][0] == one["labels"][0]["label"] for one in pure)  # said by partners
    words = [{"a", "dog"}, {"a", "dog", "runs"}, {"a", "cat"}, {"a", "cat"}]
    assert typical(words, np.array([0, 0, 1, 1])) == [["dog", "runs"], ["cat"]]
    assert typical([{"on", "dog"}, {"on"}, {"cat"}], np.array([0, 0, 1])) == [["dog"], ["cat"]]


def test_labels_that_are_not_known_for_all(tmp_path):
    vectors = unit(40)
    metadata = [{"label": 0 if row % 2 else 1} if row < 30 else {"label": ""} if row < 35 else {} for row in range(40)]
    pure = numbers_of(plain(tmp_path / "i", vectors, metadata))[0]["purity"]["items"]
    assert pure["items"] + pure["unlabelled"] == 40 and pure["unlabelled"] == 10
    assert {row["label"] for row in pure["worst"]} == {0, 1}  # zero is a label


# Several spaces -------------------------------------------------------------------------------------------------------


def test_a_turned_space_is_the_same_one(tmp_path):
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((16, 16)))[0]
    paths = [of_joint(tmp_path / "a"), of_joint(tmp_path / "b", turn=turn), of_joint(tmp_path / "c", seed=1)]
    report = report_of(paths, tmp_path / "out", modalities=["text"])
    assert report["overlap"]["a, b"]["text"]["overlap"] == pytest.approx(1, abs=0.02)
    assert report["cka"]["a, b"] == {"text": pytest.approx(1)}
    other = report["overlap"]["a, c"]["text"]
    assert other["overlap"] < 0.5 and other["chance"] == pytest.approx(5 / 119) and other["items"] == 120
    assert report["cka"]["a, c"]["text"] < 0.9
    page = (tmp_path / "out" / "report.html").read_text()
    assert "How alike the spaces are" in page and page.count('<h3 class="space">c</h3>') > 3
    assert len({*report["figures"]}) == len(report["figures"]) == page.count("<img")


def test_only_items_of_both_are_compared(tmp_path):
    overlap, cka, notes = likeness_of([of_joint(tmp_path / "a"), of_joint(tmp_path / "b", kept=slice(20, 50))])
    assert overlap["image"] == {"overlap": 1, "chance": pytest.approx(3 / 29), "k": 3, "items": 30}
    assert cka["image"] == pytest.approx(1)
    lowered = "k is lowered from 5 to {}, a tenth of the {} items in both, at least 1."
    assert notes == [f"image of a and b: {lowered.format(3, 30)}"]
    overlap, cka, notes = likeness_of([of_joint(tmp_path / "c"), of_joint(tmp_path / "d", kept=slice(20, 23))])
    assert overlap["image"]["k"] == 1 and cka["image"] is None
    assert notes == [
        f"image of c and d: {lowered.format(1, 3)}",
        "CKA of image of c and d: not measured, for 3 items are fewer than 30.",
    ]
    overlap, _, notes = likeness_of([of_joint(tmp_path / "e"), of_joint(tmp_path / "f", kept=slice(20, 21))])
    assert list(overlap) == ["text"] and notes == ["image of e and f: 1 items are in both, too few to compare."]


def test_the_order_of_the_items_does_not_matter(tmp_path):
    vectors, order = unit(40), np.random.default_rng(0).permutation(40)
    paths = [plain(tmp_path / "a", vectors), plain(tmp_path / "b", vectors[order], ids=order.tolist())]
    overlap, cka, _ = likeness_of(paths)
    assert overlap["items"]["overlap"] == 1 and cka["items"] == pytest.approx(1)


def test_modalities_of_one_encoder_in_two_indexes_are_one_space(tmp_path):
    images, texts, _ = joint()
    names = [f"image:{k}" for k in range(60)], [f"text:{k // 2}#{k % 2}" for k in range(120)]
    paths = [
        plain(tmp_path / "i", images, None, names[0], modality="image", fingerprint="f"),
        plain(tmp_path / "t", texts, None, names[1], modality="text", fingerprint="f"),
    ]
    assert [space.name for space in spaces_of(paths, 5)] == ["i + t"]
    apart, _ = numbers_of(paths, None)
    together, _ = numbers_of(of_joint(tmp_path / "both", fingerprint="f"), None)
    assert apart["alignment"]["image_text"]["pairs"] == 120
    for key in ("modality_gap", "ranks", "hubness", "own_modality"):
        assert apart[key] == together[key]


def test_names_are_the_ends_that_tell_paths_apart():
    assert short_names(["runs/a/index", "runs/b/index"]) == ["a", "b"]
    assert short_names(["x/a", "y/a", "y/b"]) == ["x/a", "y/a", "y/b"]
    assert short_names(["runs/a/index"]) == ["a"] and short_names(["runs/photos"]) == ["photos"]


# What comes from outside ----------------------------------------------------------------------------------------------


def test_one_label_says_nothing(tmp_path):
    numbers, notes = numbers_of(plain(tmp_path / "i", unit(30), [{"class": "dog"}] * 30), "class", 3)
    pure = numbers["purity"]["items"]
    assert (pure["purity"], pure["chance"]) == (1, 1) and "says nothing" in notes[0]


def test_labels_of_one_item_are_told(tmp_path):
    numbers, notes = numbers_of(plain(tmp_path / "i", unit(9), [{"label": max(row, 5)} for row in range(9)]))
    assert [row["label"] for row in numbers["purity"]["items"]["worst"]] == [5]
    assert notes[2:] == [
        "purity of items: of 4 values of label, 3 have no items that could be a neighbour of the same; their items "
        "count as 0 and are not listed."
    ]


def test_few_items_lower_k(tmp_path):
    report = report_of(plain(tmp_path / "i", unit(4)), tmp_path / "out", k=10, sample=100)
    assert report["notes"] == [
        "items: k is lowered from 10 to 1, a tenth of the 4 items, at least 1.",
        "items: 4 items are fewer than 30: skewness, intrinsic dimension and whether a plane tells them apart are not "
        "measured.",
    ]
    assert report["spaces"]["i"]["k"] == {"items": 1} and report["hubness"]["i"]["items"]["k"] == 1
    assert "k = 1\n" in table(report) and "<footer>k = 1, seed" in (tmp_path / "out" / "report.html").read_text()
    assert report["projection"]["i"]["tsne"]["perplexity"] == 1


def words(folder, n=120, labels=10):
    """Pictures in clouds by their label, and one word for each label; none is the partner of another."""
    which = np.arange(n) % labels
    centres = 3 * np.eye(labels, 16)
    images = normal(centres[which] + 0.1 * np.random.default_rng(0).standard_normal((n, 16)))
    index = Index.build(images, [f"image:{k}" for k in range(n)], [{"digit": int(k)} for k in which], modality="image")
    meta = [{"digit": k} for k in range(labels)]
    index.add(normal(centres), [f"text:word-{k}" for k in range(labels)], meta, modality="text")
    index.save(folder)
    return str(folder)


def test_k_is_a_tenth_of_the_answers_at_most(tmp_path):
    """Else all words are everybody's neighbours, and purity is chance whatever was learnt."""
    for k, used in ((10, 10), (100_000, 12)):
        numbers, notes = numbers_of(words(tmp_path / str(k)), "digit", k)
        pure, hubs = numbers["purity"], numbers["hubness"]
        assert (hubs["image_to_text"]["k"], hubs["text_to_image"]["k"], hubs["image"]["k"]) == (1, used, used)
        assert pure["image_to_text"]["purity"] == 1 and pure["image_to_text"]["chance"] == pytest.approx(0.1)
        assert f"text: k is lowered from {k} to 1, a tenth of the 10 items, at least 1." in notes
        assert numbers["own_modality"]["image"]["share"] > 0.9
        assert pure["image"]["purity"] == pytest.approx(1, abs=0.1) and hubs["image"]["skewness"] != 0


def test_what_few_items_or_labels_cannot_say_is_null(tmp_path):
    report = report_of(words(tmp_path / "i"), tmp_path / "out", label="digit")
    notes = " ".join(report["notes"])
    assert report["purity"]["i"]["text"]["purity"] is None and report["purity"]["i"]["text"]["chance"] is None
    assert "purity of text: not defined, for no digit is that of two items." in notes
    assert "figures/worst_text.png" not in report["figures"] and "figures/worst_image.png" in report["figures"]
    dimension = report["intrinsic_dimension"]["i"]
    assert dimension["text"] is None and dimension["image"] > 1
    assert report["modality_gap"]["i"]["image_text"]["separability"] is None
    assert "text: 10 items are fewer than 30" in notes
    hubs = report["hubness"]["i"]["text_to_image"]
    assert hubs["mean"] == pytest.approx(10 * 5 / 120) and hubs["hubs"] is None and hubs["skewness"] is None
    assert "hubness of text_to_image: an item is found 0.4 times" in notes
    assert "figures/hubs_text_to_image.png" not in report["figures"]
    page = (tmp_path / "out" / "report.html").read_text()
    glance = page.partition('<ul class="facts">')[2].partition("</ul>")[0]
    assert (
        "nearest to a text, 100.0" in glance
        and "texts nearest to a text" not in glance
        and "0.0\u00a0% have" not in (glance.replace("100.0", ""))
    )
    assert "Of the images nearest to an image" in glance and glance.count("<li>") < 8
    never = report["hubness"]["i"]["image"]
    (line,) = [one for one in table(report).splitlines() if one.startswith("      by chance") and "0.0" in one][:1]
    assert f"{never['antihubs_by_chance']:.3f}" in line


def test_no_partners_are_told(tmp_path):
    numbers, notes = numbers_of(words(tmp_path / "i"), "digit")
    assert numbers["ranks"] == {} and numbers["alignment"] == {}
    (note,) = [one for one in notes if one.startswith("ranks and alignment: not measured of image and text, where no")]
    assert "`item`" in note
    assert not any("ranks and alignment" in one for one in numbers_of(of_joint(tmp_path / "j"))[1])


def test_classes_are_clouds_and_pairs_are_copies(tmp_path):
    numbers, notes = numbers_of(words(tmp_path / "i"), "digit")
    assert numbers["duplicates"]["image"]["near"]["clouds"] and "near duplicates of image: clouds, not copies" in (
        " ".join(notes)
    )
    vectors = unit(60)
    numbers, notes = numbers_of(plain(tmp_path / "pairs", np.concatenate([vectors, vectors])), None)
    near = numbers["duplicates"]["items"]["near"]
    assert near["items"] == 120 and not near["clouds"] and "clouds" not in " ".join(notes)
    numbers, _ = numbers_of(
        plain(tmp_path / "same", np.concatenate([vectors, np.repeat(unit(1, seed=1), 40, 0)])), None
    )
    assert not numbers["duplicates"]["items"]["near"]["clouds"]  # forty times the very same


def test_one_item(tmp_path):
    report = report_of(plain(tmp_path / "i", unit(1)), tmp_path / "out", sample=100)
    assert "there is one item" in report["notes"][0] and report["projection"]["i"] is None
    assert report["hubness"]["i"] == {} and report["uniformity"]["i"]["items"] is None


def test_a_constant_space_is_told_and_written(tmp_path):
    same = np.repeat(unit(1), 40, axis=0)
    items = [{"item": str(k), "label": LABELS[k % 3]} for k in range(40)]
    index = Index.build(same, [f"image:{k}" for k in range(40)], items, modality="image")
    index.add(same, [f"text:{k}" for k in range(40)], items, modality="text")
    index.save(tmp_path / "i")
    report = report_of(str(tmp_path / "i"), tmp_path / "out", sample=30)
    notes = " ".join(report["notes"])
    for said in ("image: all 40 vectors are equal", "text: all 40 vectors", "maps: none", "tells image and text apart"):
        assert said in notes
    gap = report["modality_gap"]["i"]["image_text"]
    assert gap["distance"] == pytest.approx(0, abs=1e-6) and gap["relative"] is None and gap["separability"] is None
    assert report["uniformity"]["i"]["image"] == pytest.approx(0, abs=1e-4) and report["hubness"]["i"] == {}
    assert report["ranks"]["i"]["image_to_text"]["R@1"] == pytest.approx(1 / 40)  # chance, never 100 %
    assert report["duplicates"]["i"]["image"]["equal"]["items"] == 40
    assert "not defined" in (tmp_path / "out" / "report.html").read_text()
    assert "image_to_text: R@1 0.025, with the gap closed 0.025; hubness: skewness -" in table(report)
    both = [str(tmp_path / "i"), plain(tmp_path / "j", same, None, [f"image:{k}" for k in range(40)], modality="image")]
    report = report_of(both, tmp_path / "two")
    assert report["overlap"]["i, j"]["image"]["overlap"] is None and report["cka"]["i, j"]["image"] is None


def test_a_constant_modality_finds_by_chance(tmp_path):
    """One of several partners comes first by chance, and sooner than in the middle."""
    same = np.repeat(unit(1, seed=1), 250, axis=0)
    items = [{"item": str(k)} for k in range(50)]
    index = Index.build(unit(50), [f"image:{k}" for k in range(50)], items, modality="image")
    names = [f"text:{k}#{number}" for k in range(50) for number in range(5)]
    index.add(same, names, [items[k // 5] for k in range(250)], modality="text")
    index.save(tmp_path / "i")
    report = report_of(str(tmp_path / "i"), tmp_path / "out", sample=90)
    (note,) = [one for one in report["notes"] if "all 250 vectors are equal" in one]
    assert note.startswith("text:")
    ranks = report["ranks"]["i"]
    for found in (ranks["image_to_text"], ranks["image_to_text"]["gap_closed"]):
        assert found["R@1"] == pytest.approx(5 / 250) and found["median"] == pytest.approx(251 / 6)
    lines = table(report).splitlines()
    assert (
        "  image_to_text: R@1 0.020, with the gap closed 0.020; hubness: skewness -, never found -, by chance -"
        in lines
    )
    (of_parts,) = [line.split()[-2:] for line in lines if "hubness: skewness  " in line]
    assert of_parts == [f"{report['hubness']['i']['image']['skewness']:.3f}", "-"]  # of pictures, of sentences


def test_what_is_refused(tmp_path):
    path = of_joint(tmp_path / "i")
    Index(16).save(tmp_path / "empty")
    plain(tmp_path / "other", unit(9), ids=[f"photo:{k}" for k in range(9)])
    plain(tmp_path / "lists", unit(9), [{"label": [1]}] * 9)
    with pytest.raises(ValueError, match=r"must hold items to be looked into: .*empty holds none"):
        spaces_of([str(tmp_path / "empty")], 5)
    with pytest.raises(ValueError, match=r"modalities of i are image, text: got 'images'. Did you mean 'image'"):
        spaces_of([path], 5, ["images"])
    with pytest.raises(ValueError, match=r"by the ids of their items: .*i shares none .* its first is .'image:0'"):
        spaces_of([path, str(tmp_path / "other")], 5)
    with pytest.raises(ValueError, match="must be different ones"):
        spaces_of([path, path], 5)
    with pytest.raises(FileNotFoundError, match="must hold an index"):
        spaces_of([str(tmp_path / "none")], 5)
    with pytest.raises(ValueError, match=r"no item has the key 'labels'. Keys are: .* Did you mean 'label'"):
        label_key(spaces_of([path], 5), "labels")
    with pytest.raises(ValueError, match=r"a label must be a word or a number: 'label' of 0 is \[1\]"):
        report_of(str(tmp_path / "lists"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
