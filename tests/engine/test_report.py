"""The table at the end of a run: every number under its column, with what its controls score below it."""

import pytest

from mm.engine import table

METRICS = {
    "image_to_text_R@1": 0.5,
    "image_to_text_MedR": 2.0,
    "text_to_image_R@1": 0.255,
    "text_to_image_MedR": 13.0,
    "rsum": 1.23,
    "image+audio_to_text_R@1": 0.75,
}
CONTROLS = {
    "chance": {"image_to_text_R@1": 0.001, "image_to_text_MedR": 500.0, "text_to_image_R@1": 0.001, "rsum": 0.02},
    "perfect_decoder": {"text_to_image_R@1": 1.0, "text_to_image_R@10": 1.0},
}


def cells(line: str) -> list[str]:
    return line.split()


def test_rows_and_columns() -> None:
    lines = table(METRICS, CONTROLS).splitlines()
    assert lines[0].split() == ["R@1", "MedR"]
    assert lines[1].split() == ["image", "to", "text", "50.0", "2.0"]  # shares in per cent, ranks as they are
    assert lines[2].split() == ["chance", "0.1", "500.0"]
    assert lines[3].split() == ["text", "to", "image", "25.5", "13.0"]
    assert lines[4].split() == ["chance", "0.1"]  # a number that a control lacks stays blank
    assert lines[5].split() == ["perfect", "decoder", "100.0"]  # and one that the result lacks has no column
    assert lines[6].split() == ["rsum"]
    assert lines[7].split() == ["result", "123.0"]
    assert lines[8].split() == ["chance", "2.0"]
    assert [line.split() for line in lines[9:]] == [["R@1"], ["image+audio", "to", "text", "75.0"]]


def test_controls_are_indented_and_numbers_are_aligned() -> None:
    lines = table(METRICS, CONTROLS).splitlines()
    assert lines[2].startswith("  chance ")
    for line in lines[1:4]:
        assert line[: lines[0].index("R@1")].strip()  # the label ends where the columns begin
        ends = [lines[0].index(column) + len(column) for column in ("R@1", "MedR")]
        for end in ends:
            assert line[end - 1].isdigit()
            assert line[end : end + 1] in ("", " ")


def test_the_header_is_repeated_where_the_columns_change_and_nowhere_else() -> None:
    text = table({f"{a}_to_{b}_R@1": 0.5 for a, b in (("image", "text"), ("text", "image"), ("text", "audio"))}, {})
    assert [line.split()[0] for line in text.splitlines()] == ["R@1", "image", "text", "text"]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("accuracy", 0.5, "50.0"),
        ("BLEU-4", 0.271, "27.1"),
        ("CIDEr", 0.91, "91.0"),  # the official tool gives 0.91, papers print 91
        ("CIDEr-D", 1.2, "120.0"),
        ("words", 9.5, "9.5"),
        ("vocabulary", 170, "170.0"),
        ("SI-SDRi", 12.34, "12.3"),
        ("SDRi", -0.5, "-0.5"),
        ("PESQ", 2.5, "2.5"),
        ("mAP@10", 1.0, "100.0"),
        ("MeanR", 8.25, "8.2"),
    ],
)
def test_what_is_no_share_is_printed_as_it_is(name: str, value: float, shown: str) -> None:
    assert table({name: value}, {}).split() == [name, "result", shown]
    assert table({f"image_to_text_{name}": value}, {}).split()[-1] == shown


def test_a_control_with_nothing_to_compare_has_no_row() -> None:
    assert "random" not in table({"accuracy": 0.5}, {"random": {"AUC": 0.5}})


def test_long_names_push_the_columns_to_the_right() -> None:
    lines = table({"accuracy": 0.5}, {"images_swapped_at_random_between_questions": {"accuracy": 0.25}}).splitlines()
    assert lines[2].startswith("  images swapped at random between questions ")
    assert len({len(line) for line in lines}) == 1


def test_many_columns_stand_below_one_another() -> None:
    metrics = {f"metric-{number:02d}": number / 100 for number in range(30)}
    lines = table(metrics, {"chance": {name: 0.5 for name in list(metrics)[:3]}}).splitlines()
    assert max(map(len, lines)) <= 110
    titles = [name for line in lines for name in line.split() if name.startswith("metric-")]
    assert titles == list(metrics)  # each once, in order
    shown = [cell for line in lines if line.startswith("result") for cell in line.split()[1:]]
    assert shown == [f"{number}.0" for number in range(30)]
    assert [line.split()[1:] for line in lines if line.startswith("  chance")] == [["50.0"] * 3]


def test_accuracies_on_one_kind_stand_under_the_kind() -> None:
    lines = table(
        {"accuracy": 0.9, "accuracy/how many": 0.5}, {"question_only": {"accuracy/how many": 0.25}}
    ).splitlines()
    assert lines[0].split() == ["accuracy", "how", "many"]
    assert lines[1].split() == ["result", "90.0", "50.0"]
    assert lines[2].split() == ["question", "only", "25.0"]
