"""Environmental sounds and the phrases of their classes: ESC-10 and ESC-50 (Piczak 2015)."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

from mm.data.item import Item, Items, parts, require
from mm.naming import hint

FOLDS = range(1, 6)
VAL_SHARE = 0.1  # of each class's clips in the four training folds, at least

# The first phrase is the one that tests use; training takes them in turn. ESC-10 as first released (2015) and ESC-50
# name some classes differently.
_BABY = ("a baby crying", "baby cries", "the crying of a baby", "an infant wails")
_DOG = ("a dog barking", "dog barks", "the bark of a dog", "a barking dog")
_FIRE = ("a crackling fire", "fire crackles", "the crackling of a fire", "wood burning in a fire")
_SNEEZE = ("a person sneezing", "someone sneezes", "a sneeze", "the sneezing of a person")
PHRASES = {
    "airplane": ("an airplane flying", "airplane engine", "the noise of an airplane", "a plane passes overhead"),
    "baby_cry": _BABY,
    "breathing": ("a person breathing", "someone breathes", "the breathing of a person"),
    "brushing_teeth": ("brushing teeth", "someone brushes their teeth", "the sound of a toothbrush"),
    "can_opening": ("a can being opened", "opening a can", "a can hisses open"),
    "car_horn": ("a car horn", "a car honks", "honking of a car horn"),
    "cat": ("a cat meowing", "cat meows", "the meow of a cat"),
    "chainsaw": ("a chainsaw running", "chainsaw", "the noise of a chainsaw", "someone cuts with a chainsaw"),
    "chirping_birds": ("birds chirping", "the chirping of birds", "birds sing"),
    "church_bells": ("church bells ringing", "the bells of a church", "church bells"),
    "clapping": ("people clapping", "hands clap", "the sound of clapping"),
    "clock_alarm": ("an alarm clock ringing", "an alarm clock", "the beep of an alarm clock"),
    "clock_tick": ("a clock ticking", "clock ticks", "the tick of a clock", "a ticking clock"),
    "coughing": ("a person coughing", "someone coughs", "a cough"),
    "cow": ("a cow mooing", "cow moos", "the moo of a cow"),
    "crackling_fire": _FIRE,
    "crickets": ("crickets chirping", "the chirping of crickets", "crickets"),
    "crow": ("a crow cawing", "crow caws", "the caw of a crow"),
    "crying_baby": _BABY,
    "dog": _DOG,
    "dog_bark": _DOG,
    "door_wood_creaks": ("a wooden door creaking", "a door creaks", "the creak of a wooden door"),
    "door_wood_knock": ("knocking on a wooden door", "someone knocks on a door", "a knock on wood"),
    "drinking_sipping": ("a person drinking", "someone sips a drink", "the sound of sipping"),
    "engine": ("an engine running", "the noise of an engine", "a motor runs"),
    "fire_crackling": _FIRE,
    "fireworks": ("fireworks exploding", "fireworks", "the bang of fireworks"),
    "footsteps": ("footsteps", "someone walks", "the sound of steps"),
    "frog": ("a frog croaking", "frog croaks", "the croak of a frog"),
    "glass_breaking": ("glass breaking", "a glass shatters", "the sound of broken glass"),
    "hand_saw": ("a hand saw", "someone saws wood", "sawing by hand"),
    "helicopter": ("a helicopter flying", "helicopter", "the rotor of a helicopter", "a helicopter passes"),
    "hen": ("a hen clucking", "hen clucks", "the cluck of a hen"),
    "insects": ("insects buzzing", "flying insects", "the buzz of an insect"),
    "keyboard_typing": ("typing on a keyboard", "someone types", "the keys of a keyboard"),
    "laughing": ("a person laughing", "someone laughs", "laughter"),
    "mouse_click": ("a mouse click", "clicking with a computer mouse", "the click of a mouse button"),
    "person_sneeze": _SNEEZE,
    "pig": ("a pig grunting", "pig oinks", "the grunt of a pig"),
    "pouring_water": ("pouring water", "water is poured", "someone pours water"),
    "rain": ("rain falling", "rain", "the sound of rain", "it is raining"),
    "rooster": ("a rooster crowing", "rooster crows", "the crow of a rooster", "a crowing rooster"),
    "sea_waves": ("sea waves", "waves break on the shore", "the sound of the sea", "ocean waves"),
    "sheep": ("a sheep bleating", "sheep bleats", "the bleat of a sheep"),
    "siren": ("a siren wailing", "a siren", "the siren of an emergency vehicle"),
    "sneezing": _SNEEZE,
    "snoring": ("a person snoring", "someone snores", "the snoring of a sleeper"),
    "thunderstorm": ("a thunderstorm", "thunder rumbles", "the roll of thunder"),
    "toilet_flush": ("a toilet flushing", "someone flushes a toilet", "the flush of a toilet"),
    "train": ("a train passing", "a train", "the noise of a train on rails"),
    "vacuum_cleaner": ("a vacuum cleaner", "someone vacuums", "the noise of a vacuum cleaner"),
    "washing_machine": ("a washing machine running", "a washing machine", "the noise of a washing machine"),
    "water_drops": ("water dripping", "drops of water", "the drip of water"),
    "wind": ("wind blowing", "wind", "the howl of the wind"),
}


def esc10(root: Path, split: str, fold: int = 1) -> Items:
    """ESC-10: 400 clips of 5 s in 10 classes and 5 folds, in the layout of its first release.

    Published figures train on four folds and test on the fifth, five times. To choose a model without looking at the
    test fold, `val` is cut out of the four: of each class, whole recordings (by Freesound id, in the order of the id's
    SHA-256) until they hold a tenth of the class's clips. "trainval" is all four folds. Training items: a clip with the
    phrases of its class. Val and test: an item per clip and one per class, with its first phrase. The owner is the
    class.

    Args:
        root: holds `esc10/meta/esc10.csv` (filename, fold, category, freesound_id) and `esc10/audio/`.
        split: "train", "val", "test" or "trainval".
        fold: of the test, 1 to 5.

    Raises:
        FileNotFoundError: the set, or a clip that the CSV names, is not there.
        ValueError: another fold, or a CSV that lacks a column or names an unknown class.
    """
    return _esc(require(root / "esc10", "meta/esc10.csv", "audio"), "freesound_id", split, fold)


def esc50(root: Path, split: str, fold: int = 1) -> Items:
    """ESC-50: 2,000 clips of 5 s in 50 classes and 5 folds, as published; splits and items as `esc10`.

    Args and errors as `esc10`; files: `esc50/meta/esc50.csv` (filename, fold, category, src_file) and `esc50/audio/`.
    """
    return _esc(require(root / "esc50", "meta/esc50.csv", "audio"), "src_file", split, fold)


def _esc(folder: Path, recording: str, split: str, fold: int) -> Items:
    if fold not in FOLDS:
        raise ValueError(f"fold must be one of {', '.join(map(str, FOLDS))}: got {fold}.")
    wanted = parts(split)
    rows = _rows(folder / "meta" / f"{folder.name}.csv", recording)
    held_out = _val_recordings([row for row in rows if int(row["fold"]) != fold], recording)

    def part(row: dict[str, str]) -> str:
        if int(row["fold"]) == fold:
            return "test"
        return "val" if (row["category"], row[recording]) in held_out else "train"

    training = "train" in wanted
    items = []
    for row in rows:
        if part(row) not in wanted:
            continue
        file, category = folder / "audio" / row["filename"], row["category"]
        if not file.exists():
            raise FileNotFoundError(f"{file} is named in the data set's CSV and must be there. Unpack the set anew.")
        meta = {"category": category, "fold": int(row["fold"]), "recording": row[recording]}
        text = PHRASES[category] if training else ()
        items.append(Item(file.stem, category, text=text, audio=(file,), meta=meta))
    if not training:
        for category in sorted({row["category"] for row in rows}):
            items.append(Item(f"class-{category}", category, text=(PHRASES[category][0],), meta={"category": category}))
    return Items(items)


def _rows(table: Path, recording: str) -> list[dict[str, str]]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    needed = ("filename", "fold", "category", recording)
    for column in needed:
        if column not in (reader.fieldnames or ()):
            near = hint(column, reader.fieldnames or ())
            raise ValueError(f"{table} must have the columns {', '.join(needed)}: {column!r} is missing.{near}")
    for line, row in enumerate(rows, start=2):
        if row["category"] not in PHRASES:
            near = hint(row["category"], PHRASES)
            raise ValueError(
                f"{table}:{line}: unknown class {row['category']!r}; mm.data.sounds.PHRASES has none.{near}"
            )
    return rows


def _val_recordings(rows: list[dict[str, str]], recording: str) -> set[tuple[str, str]]:
    """(class, recording) of the clips that are held out for validation."""
    clips: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        clips[row["category"]][row[recording]] += 1
    held_out = set()
    for category, counts in clips.items():
        missing = VAL_SHARE * sum(counts.values())
        for name in sorted(counts, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
            if missing <= 0:
                break
            held_out.add((category, name))
            missing -= counts[name]
    return held_out
