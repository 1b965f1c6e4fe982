import json

import pytest

from mm.config import DataConfig
from mm.data import UnreadableError, load, table

CSV = """id,split,image,text,text_1,audio,owner,city
1,train,p/a.jpg,"A dog, running",a dog,,dog,Bonn
2,train,p/b.jpg,"[""two cats"", ""cats""]",,s.wav,,Rome
3,test,,the sea,,,,Oslo
"""


@pytest.fixture
def small(tmp_path, jpeg, sound):
    jpeg(tmp_path / "p" / "a.jpg"), jpeg(tmp_path / "p" / "b.jpg"), sound(tmp_path / "s.wav")
    file = tmp_path / "mine.csv"
    file.write_text(CSV)
    return file


def test_columns_become_an_item(small):
    first, second = table(small, "train")
    assert first.id == "1" and first.owner == "dog" and first.image == (small.parent / "p" / "a.jpg",)
    assert first.text == ("A dog, running", "a dog") and first.audio == () and first.meta == {"city": "Bonn"}
    assert second.owner == "2" and second.text == ("two cats", "cats") and second.audio == (small.parent / "s.wav",)
    (third,) = table(small, "test")
    assert third.text == ("the sea",) and third.image == ()


def test_jsonl_says_the_same(small):
    rows = [
        {
            "id": 1,
            "split": "train",
            "image": "p/a.jpg",
            "text": ["A dog, running", "a dog"],
            "owner": "dog",
            "city": "Bonn",
        },
        {
            "id": 2,
            "split": "train",
            "image": ["p/b.jpg"],
            "text_1": "two cats",
            "text_2": "cats",
            "audio": "s.wav",
            "city": "Rome",
        },
    ]
    file = small.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(table(file, "train")) == list(table(small, "train"))


def test_a_sentence_may_begin_with_a_bracket(small):
    small.write_text("id,split,text\n1,train,[laughs] hello\n")
    assert table(small, "train")[0].text == ("[laughs] hello",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("split,text\ntrain,a\n", r"mine\.csv:2: the column 'id' is missing"),
        ("id,splt,text\n1,train,a\n", r"the column 'split' is missing. Did you mean 'splt'\?"),
        ("id,split,txt,image\n1,train,a,p/a.jpg\n", r"mine\.csv:2: unknown column 'txt'. Did you mean 'text'\?"),
        ("id,split,city\n1,train,Bonn\n", r"at least one of the columns image, text, audio must be there"),
        ("id,split,text\n1,train,a\n1,val,b\n", r"mine\.csv:3: the id '1' must be unique, line 2 has it too"),
        ("id,split,text\n,train,a\n", r"mine\.csv:2: every row must have an id"),
        (
            "id,split,text\n1,tran,a\n",
            r"mine\.csv:2: split must be train, val or test: got 'tran'. Did you mean 'train'\?",
        ),
        ("id,split,text\n1,train,a,b\n", r"mine\.csv:2: a row must have 3 cells, one per column: got 4"),
        ("id,split,text\n1,train\n", r"mine\.csv:2: a row must have 3 cells, one per column: got 2"),
        ("id,split,text,text\n1,train,a,b\n", r"mine\.csv:1: column names must be unique"),
        ("id,split,text\n1,train,\n", r"mine\.csv:2: a row must have at least one of image, text, audio"),
        ("id,split,text\n1,val,a\n", r"no row of the split 'train': it has val"),
        ("id,split,text\n", r"no row of the split 'train': it has none"),
        ("id,split,text\n1,train,[1]\n", r"mine\.csv:2: text must hold a string or a list of strings: got \[1\]"),
        ('id,split,text\n1,train,"a\n', r"mine\.csv:2: the quotation marks of a CSV must close"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(small, content, message):
    small.write_text(content)
    with pytest.raises(ValueError, match=message):
        table(small, "train", skip_bad=True)  # none of these may be skipped


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id,split,image,text\n1,train,p/z.jpg,a\n2,train,p/a.jpg,b\n",
            r"mine\.csv:2: image names .*z\.jpg, which is not there",
        ),
        ('id,split,text\n1,train," "\n2,train,b\n', r"mine\.csv:2: text has an empty entry"),
        ('id,split,text\n1,train,"[""a"", """"]"\n2,train,b\n', r"mine\.csv:2: text has an empty entry"),
    ],
)
def test_unreadable_training_rows_stop_or_are_counted(small, content, message):
    small.write_text(content)
    with pytest.raises(UnreadableError, match=message):
        table(small, "train")
    kept = table(small, "train", skip_bad=True)
    assert [item.id for item in kept] == ["2"] and len(kept.skipped) == 1
    small.write_text(content.replace("train", "test"))
    with pytest.raises(UnreadableError, match=message):
        table(small, "test", skip_bad=True)


def test_json_errors_and_other_files(small):
    file = small.with_suffix(".jsonl")
    file.write_text('{"id": 1, "split": "train", "text": "a"}\n{"id": 2,\n')
    with pytest.raises(ValueError, match=r"mine\.jsonl:2: a line must be one JSON object"):
        table(file, "train")
    file.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"mine\.jsonl:1: a line must be one JSON object: got list"):
        table(file, "train")
    with pytest.raises(FileNotFoundError, match="there is none of this name"):
        table(small.with_name("no.csv"), "train")
    with pytest.raises(ValueError, match=r"must end in \.csv or \.jsonl: got 'mine\.xls'"):
        table(small.rename(small.with_suffix(".xls")), "train")


def test_through_the_settings(small):
    assert len(load(DataConfig(name="table", file=str(small)), "train")) == 2
    with pytest.raises(ValueError, match=r"data\.name=table needs data\.file"):
        load(DataConfig(name="table"), "train")
