import json

import pytest

from mm.config import DataConfig
from mm.data import UnreadableError, load, load_asked, table
from mm.data.item import Question

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


ASKED = """id,split,image,question,answer,type,choices,owner
1,train,p/a.jpg,What runs?,a dog,what,,
2,train,p/a.jpg, How many? ,"[""2"", ""Two"", ""3""]",how many,"[""1"", ""2"", ""3""]",x
3,val,p/b.jpg,Is it a cat?,yes,,,
4,test,p/b.jpg,Why?,,,,
"""


def test_a_question_with_what_people_said_to_it(small):
    small.write_text(ASKED)
    first, second, third = table(small, "trainval")
    assert first.questions == (Question("1", "What runs?", ("a dog",), "what"),)
    asked = Question("2", "How many?", ("2", "Two", "3"), "how many", "number", ("1", "2", "3"))
    assert second.questions == (asked,) and second.owner == "x"
    assert third.questions == (Question("3", "Is it a cat?", ("yes",), "", "yes/no"),)
    (hidden,) = table(small, "test")
    assert hidden.questions == (Question("4", "Why?"),) and hidden.image == (small.parent / "p" / "b.jpg",)
    assert all(item.meta == {} and item.text == () for item in (first, second, third, hidden))
    rows = [
        {"id": 1, "split": "train", "image": "p/a.jpg", "question": "What runs?", "answer": "a dog", "type": "what"},
        {
            "id": 2,
            "split": "train",
            "image": "p/a.jpg",
            "question": "How many?",
            "answer": ["2", "Two", "3"],
            "owner": "x",
        },
        {"id": 3, "split": "val", "image": ["p/b.jpg"], "question": "Is it a cat?", "answer": "yes", "type": None},
    ]
    rows[1] |= {"type": "how many", "choices": ["1", "2", "3"]}
    file = small.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(table(file, "trainval")) == [first, second, third]
    cfg = DataConfig(name="table", file=str(small))
    assert list(load_asked(cfg, "train")) == [first, second]
    assert load_asked(cfg, "train", modalities=[])[0].image == ()


def test_without_questions_their_columns_are_metadata(small):
    small.write_text("id,split,text,answer,type,choices,style\n1,train,a dog,A,photo,B,oil\n")
    (item,) = table(small, "train")
    assert item.questions == () and item.meta == {"answer": "A", "type": "photo", "choices": "B", "style": "oil"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,split,image,question\n1,train,p/a.jpg,\n", r"mine\.csv:2: question must be text and not empty: got ''"),
        (
            'id,split,image,question\n1,train,p/a.jpg," "\n',
            r"mine\.csv:2: question must be text and not empty: got ' '",
        ),
        (
            "id,split,image,question,anser\n1,train,p/a.jpg,Why?,so\n",
            r"mine\.csv:2: unknown column 'anser'\. Did you mean 'answer'\?",
        ),
        (
            "id,split,image,qestion,answer\n1,train,p/a.jpg,Why?,so\n",
            r"mine\.csv:2: unknown column 'qestion'\. Did you mean 'question'\?",
        ),
        (
            "id,split,image,question,choice\n1,train,p/a.jpg,Why?,so\n",
            r"unknown column 'choice'\. Did you mean 'choices'\?",
        ),
        (
            'id,split,image,question,answer\n1,train,p/a.jpg,Why?,"[""so"", """"]"\n',
            r"mine\.csv:2: answer has an empty entry\. Leave it out",
        ),
        ('id,split,image,question,answer\n1,train,p/a.jpg,Why?," "\n', r"mine\.csv:2: answer has an empty entry"),
        (
            'id,split,image,question,choices\n1,train,p/a.jpg,Why?,"[""so"", "" ""]"\n',
            r"mine\.csv:2: choices has an empty entry",
        ),
        (
            "id,split,image,question,answer\n1,train,p/a.jpg,Why?,[1]\n",
            r"answer must hold a string or a list .*: got \[1\]",
        ),
        ("id,split,question,answer\n1,train,Why?,so\n", "at least one of the columns image, text, audio must be there"),
    ],
)
def test_what_is_wrong_with_a_question_is_said_with_file_and_line(small, content, message):
    small.write_text(content)
    with pytest.raises(ValueError, match=message):
        table(small, "train", skip_bad=True)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"question": None}, "question must be text and not empty: got None"),
        ({"question": 7}, "question must be text and not empty: got 7"),
        ({"question": ["a", "b"]}, r"question must be text and not empty: got \['a', 'b'\]"),
        ({"question": "Why?", "type": 3}, "type must be text: got 3"),
        ({"question": "How many?", "answer": 3}, "answer must hold a string or a list of strings: got 3"),
        ({"question": "How many?", "choices": {"a": 1}}, "choices must hold a string or a list of strings"),
    ],
)
def test_jsonl_questions_that_are_none(small, cells, message):
    file = small.with_suffix(".jsonl")
    file.write_text(json.dumps({"id": 1, "split": "train", "image": "p/a.jpg", **cells}))
    with pytest.raises(ValueError, match=r"mine\.jsonl:1: " + message):
        table(file, "train", skip_bad=True)
