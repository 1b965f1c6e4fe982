"""Settings: what wins over what; whatever is wrong is said with its key, its file and the nearest valid name."""

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm.config import (
    ConfigError,
    LoopConfig,
    OptimConfig,
    clean_exit,
    differences,
    load,
    settings,
    to_yaml,
    usage,
)
from mm.tasks.retrieval import Retrieval


@dataclass
class Tower:
    """One encoder."""

    name: str = "gru"
    hidden: int = 512
    word_dim: int = 300
    pool: Literal["last", "mean", "max"] = "max"
    dropout: float = 0.0


@dataclass
class Towers:
    """The encoders."""

    text: Tower = field(default_factory=Tower)


@dataclass
class Task:
    """A task for the tests."""

    seed: int = 0  # of everything
    out: str = "runs/task"
    modalities: list[str] = field(default_factory=lambda: ["image", "text"])  # at least two
    rates: dict[str, float] = field(default_factory=dict)
    encoder: Towers = field(default_factory=Towers)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass
class Needy:
    """A setting without a default."""

    name: str
    kind: Literal["a", "b"] = "a"


def yaml_file(folder: Path, text: str, name: str = "f.yaml") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def test_without_arguments_the_defaults_hold() -> None:
    assert load(Task) == Task()
    assert load(Task, []).optim is not load(Task, []).optim


def test_later_sources_win(tmp_path: Path) -> None:
    first = yaml_file(tmp_path, "optim: {lr: 3e-4, clip_norm: 2}\nloop.steps: 7\nseed: 1\n", "a.yaml")
    second = yaml_file(tmp_path, "optim:\n  lr: 5e-4\nmodalities: [text, audio]\n", "b.yaml")
    cfg = load(Task, ["seed=9", "--config", first, f"--config={second}", "optim.clip_norm=0.5", "optim.clip_norm=0.25"])
    assert (cfg.seed, cfg.optim.lr, cfg.optim.clip_norm, cfg.loop.steps) == (9, 5e-4, 0.25, 7)
    assert cfg.modalities == ["text", "audio"]
    assert cfg.optim.warmup_steps == OptimConfig.warmup_steps
    assert load(Task, ["--config", yaml_file(tmp_path, "")]) == Task()


def test_the_default_file_is_read_only_where_no_other_is_given(tmp_path: Path) -> None:
    default, other = yaml_file(tmp_path, "seed: 3", "d.yaml"), yaml_file(tmp_path, "optim.lr: 1", "o.yaml")
    assert load(Task, ["loop.steps=5"], default=default).seed == 3
    assert load(Task, ["--config", other], default=default).seed == 0


@pytest.mark.parametrize(
    ("argument", "read", "value"),
    [
        ("optim.lr=3e-4", lambda c: c.optim.lr, 3e-4),
        ("optim.lr=1", lambda c: c.optim.lr, 1.0),
        ("loop.amp=true", lambda c: c.loop.amp, True),
        ("out=007", lambda c: c.out, "007"),  # text stays as it was typed
        ("out=", lambda c: c.out, ""),
        ("out=a=b", lambda c: c.out, "a=b"),
        ("out=yes", lambda c: c.out, "yes"),
        ("optim.name=sgd", lambda c: c.optim.name, "sgd"),
        ("modalities=[a, 'b c']", lambda c: c.modalities, ["a", "b c"]),
        ("modalities=[]", lambda c: c.modalities, []),
        ("rates={encoders.image: 0.1}", lambda c: c.rates, {"encoders.image": 0.1}),
        ("encoder.text.pool=mean", lambda c: c.encoder.text.pool, "mean"),
        ("out=${encoder.text.name}/x", lambda c: c.out, "gru/x"),
    ],
)
def test_values_of_the_command_line(argument: str, read, value) -> None:
    assert read(load(Task, [argument])) == value


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optim.learning_rate=1", r"command line: 'optim\.learning_rate' is not a setting of Task.*'optim\.lr'"),
        ("lr=1", r"'lr' is not a setting.*Did you mean 'optim\.lr'"),
        ("optim.wd=1", r"Did you mean 'optim\.weight_decay'"),
        ("encoder.text.hiden=1", r"Did you mean 'encoder\.text\.hidden'"),
        ("loop.lr=1", r"Did you mean 'optim\.lr'"),
        ("optim.lr.x=1", r"Did you mean 'optim\.lr'"),
        ("zzzzzz=1", r"See --help for all keys"),
        ("optim=3", r"'optim' is a group: got '3'\. Set one of optim\.name, optim\.lr"),
        ("optim.lr=fast", r"optim\.lr must be float: got 'fast' \(str\)"),
        ("optim.lr=", r"optim\.lr must be float: got nothing \(null\)"),
        ("optim.lr=true", r"optim\.lr must be float: got True \(bool\)"),
        ("loop.steps=1e3", r"loop\.steps must be int: got 1000\.0 \(float\)"),
        ("loop.amp=2", r"loop\.amp must be bool: got 2 \(int\)"),
        ("loop.amp=tru", r"loop\.amp must be bool: got 'tru'"),
        ("modalities=text", r"modalities must be list\[str\]: got 'text' \(str\)\. Write \[a, b\]"),
        ("modalities=[text", r"command line: modalities must be list\[str\]: got '\[text'"),
        ("rates={a: b}", r"rates must be dict\[str, float\]"),
        ("optim.name=adam", r'optim\.name must be "adamw" \| "muon" \| "sgd": got \'adam\'.*Did you mean \'adamw\''),
        ("out=${nowhere}", r"'out' cannot be resolved: .*nowhere"),
        (
            "--optim.lr=1",
            r"unknown argument '--optim\.lr=1': settings are written key=value, without dashes.*optim\.lr",
        ),
        ("--lr", r"Did you mean 'optim\.lr=\.\.\.'"),
        ("flickr8k.yaml", r"must be key=value or --config FILE: got 'flickr8k\.yaml'"),
        ("--config", r"--config must be followed by a file"),
    ],
)
def test_wrong_arguments_are_named(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Task, [argument])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {learning_rate: 1}", r"f\.yaml: 'optim\.learning_rate' is not a setting of Task.*'optim\.lr'"),
        ("sed: 1", r"f\.yaml: 'sed' is not a setting.*'seed'"),
        ("optim: {lr: fast}", r"f\.yaml: optim\.lr must be float: got 'fast'"),
        ("optim: {lr: '3'}", r"optim\.lr must be float: got '3' \(str\)"),
        ("out: 007", r"f\.yaml: out must be str: got 7 \(int\)\. Put it in quotes"),
        ("out:", r"out must be str: got nothing \(null\)"),
        ("optim: [1]", r"'optim' is a group: got \[1\]"),
        ("seed: {a: 1}", r"seed must be int: got \{'a': 1\}"),
        ("encoder: {text: {pool: mex}}", r'must be "last" \| "mean" \| "max": got \'mex\'.*\'max\''),
        ("- a\n- b", r"f\.yaml must hold 'key: value' lines: got list"),
        ("a: [", r"f\.yaml cannot be read as YAML.*line 2"),
        ("seed: 1\nseed: 2", r"f\.yaml cannot be read as YAML.*duplicate"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Task, ["--config", yaml_file(tmp_path, text)])


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00seed")
    with pytest.raises(ConfigError, match=r"x\.yaml cannot be read as YAML"):
        load(Task, ["--config", str(tmp_path / "x.yaml")])


def test_a_missing_file_names_those_near_it(tmp_path: Path) -> None:
    (tmp_path / "retrieval").mkdir()
    yaml_file(tmp_path, "seed: 1", "retrieval/flickr8k.yaml")
    for wrong in ("retrieval/flikr8k.yaml", "retreival/flickr8k.yaml"):
        with pytest.raises(ConfigError, match=rf"no configuration file .*{wrong}.*Did you mean .*flickr8k\.yaml"):
            load(Task, ["--config", str(tmp_path / wrong)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"None of a like name in .*empty"):
        load(Task, ["--config", str(tmp_path / "empty" / "x.yaml")])


def test_a_setting_without_default_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"'name' has no default: give name=value"):
        load(Needy, [])
    assert load(Needy, ["name=x"]) == Needy("x")
    assert "name=(needed)" in usage(Needy)


def test_a_written_file_repeats_the_run(tmp_path: Path) -> None:
    cfg = load(Task, ["optim.lr=1e-5", "modalities=[yes, '1e3', a b]", "out=1e3", "rates={a.b: 1e-7}", "loop.ema=0.99"])
    (tmp_path / "config.yaml").write_text(to_yaml(cfg), encoding="utf-8")
    assert load(Task, ["--config", str(tmp_path / "config.yaml")]) == cfg
    assert load(Task, ["--config", str(tmp_path)]) == cfg  # a run folder will do


@hypothesis.settings(deadline=None, max_examples=30)
@given(
    st.text(st.characters(exclude_characters="$?", exclude_categories=["Cs", "Cc"]), max_size=12),
    st.floats(allow_nan=False),
    st.integers(-(10**12), 10**12),
    st.lists(st.sampled_from(["no", "null", "~", "1", "0x1f", "a: b", "# c", "", "- d", "é", "1_0", "2026-01-01"])),
)
def test_any_value_survives_yaml(tmp_path_factory, out: str, lr: float, seed: int, modalities: list[str]) -> None:
    cfg = Task(seed=seed, out=out, modalities=modalities, optim=OptimConfig(lr=lr))
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(to_yaml(cfg), encoding="utf-8")
    assert load(Task, ["--config", str(file)]) == cfg


def test_differences_are_listed_by_key(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(Task(rates={"a": 0.5})), encoding="utf-8")
    other = Task(seed=3, rates={"b": 0.5}, optim=OptimConfig(lr=0.5), loop=LoopConfig(threads=4))
    assert differences(other, tmp_path / "config.yaml", ignore=["loop.threads"]) == [
        "seed: 0 there, 3 here",
        "rates.b: 'nothing' there, 0.5 here",
        "optim.lr: 0.001 there, 0.5 here",
        "rates.a: 0.5 there, 'nothing' here",
    ]
    assert differences(Task(rates={"a": 0.5}), tmp_path / "config.yaml") == []


def test_help_names_every_key_with_default_and_comment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load(Task, ["seed=1", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "A task for the tests." in text
    assert "[--config FILE]... [key=value]..." in text
    for key in settings(Task):
        assert f"  {key}=" in text
    lines = {line.split("=")[0].strip(): line for line in text.splitlines()}
    assert lines["seed"].split() == ["seed=0", "of", "everything"]
    assert lines["optim.lr"].split() == ["optim.lr=0.001", "peak"]
    assert '"adamw" | "muon" | "sgd"' in lines["optim.name"]
    assert '["image", "text"]' in lines["modalities"]
    assert "optim: Optimiser and learning-rate schedule." in text


def test_help_works_without_source() -> None:
    space: dict = {}
    exec("from dataclasses import dataclass\n@dataclass\nclass Bare:\n    x: int = 1  # unseen\n", space)
    assert "  x=1" in usage(space["Bare"])


def test_every_shared_setting_has_a_type_that_can_be_checked() -> None:
    for argument in ("optim.lr", "loop.steps", "encoder.text.dropout"):
        with pytest.raises(ConfigError, match=argument):
            load(Task, [f"{argument}=[]"])


def test_a_script_ends_with_one_clean_message(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nfrom mm.config import LoopConfig, clean_exit, load\n"
        "@clean_exit(FileNotFoundError)\ndef main():\n"
        "    if len(sys.argv) == 1: raise FileNotFoundError('data/flickr8k is missing.')\n"
        "    print(load(LoopConfig, sys.argv[1:]).steps)\n"
        "main()\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True)

    assert run("steps=3").stdout == "3\n"
    wrong = run("stebs=3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == ("train.py: command line: 'stebs' is not a setting of LoopConfig. Did you mean 'steps'?\n")
    missing = run()
    assert (missing.returncode, missing.stderr) == (2, "train.py: data/flickr8k is missing.\n")


def test_a_clean_exit_lets_other_errors_and_exits_through() -> None:
    with pytest.raises(KeyError), clean_exit():
        raise KeyError("a bug")
    with pytest.raises(SystemExit) as stopped, clean_exit(SystemExit):
        raise SystemExit(143)
    assert stopped.value.code == 143


def test_ctrl_c_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, clean_exit():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    said = capsys.readouterr().err
    assert said.endswith(": interrupted; the same command goes on from what is saved\n") and said.count("\n") == 1
    assert "Traceback" not in said


def test_every_setting_says_what_it_means() -> None:
    lines = [line for line in usage(Retrieval).splitlines() if line.startswith("  ") and "=" in line]
    assert len(lines) > 60
    assert [line for line in lines if not re.match(r"  [\w.]+=.*? {2,}\S", line)] == []
