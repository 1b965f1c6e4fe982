"""The embedded world to be localised in: scenes of three or four things, of which one sounds, with its box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mm.data.item import Item
from mm.data.scenes import SIDE_PX, Scene, draw_scene, picture
from mm.data.synthetic import SPLITS, World, truth
from mm.data.voices import sound
from mm.naming import known

THINGS = (0.0, 0.0, 0.5, 0.5)  # shares of the scenes with 1, 2, 3 and 4 things
_WORLD = World(objects=THINGS)
_STREAM = 20  # these scenes draw from chance of their own: (seed, split, index, 20 or more)


class SoundingScenes(Sequence[Item]):
    """Scenes of one split with the sound of some of their things; each is drawn when it is asked for.

    `meta["boxes"]` is what all localisation data have: of each annotator, here one, the boxes of all that sounds, as
    shares of the picture's width and height.

    Args:
        split: "train", "val" or "test".
        n: how many scenes. Scene i is the same for every n.
        seed: of the world, at least 0.
        sources: how many things sound, all at once; 0 = noise alone, and no box.
        world: how hard it is to see and hear.

    Raises:
        ValueError: an unknown split, a negative number, or more sources than every scene has things.
    """

    def __init__(self, split: str, n: int, seed: int = 0, sources: int = 1, world: World = _WORLD):
        known(split, SPLITS, "split")
        if n < 1 or seed < 0:
            raise ValueError(f"a split needs at least one scene, and a seed of at least 0: got n={n}, seed={seed}.")
        fewest = 1 + next(number for number, share in enumerate(world.objects) if share)  # things of a scene
        if not 0 <= sources <= fewest:
            raise ValueError(f"0 to {fewest} things of a scene can sound: got sources={sources}.")
        self.split, self.n, self.seed, self.sources, self.world = split, n, seed, sources, world

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """Item `index`: its picture and sound, and as `meta` the truth about each thing and the boxes of the sound."""
        world = self.world
        scene, sounding = self.drawn(index)
        image, boxes = picture(
            scene,
            self._rng(index, 1),
            texture=world.texture,
            pixel_noise=world.pixel_noise,
            light=world.light,
            tilt_deg=world.tilt_deg,
        )
        wave = sound([scene[i] for i in sounding], self._rng(index, 2), together=True, snr_db=world.snr_db)
        shares = [[edge / SIDE_PX for edge in boxes[i]] for i in sounding]
        meta = {"objects": truth(scene, boxes), "sounding": sounding, **({"boxes": [shares]} if shares else {})}
        name = self.name(index)
        return Item(name, name, image=(image,), audio=(wave,), meta=meta)

    def name(self, index: int) -> str:
        """Id and owner of item `index`."""
        return f"{self.split}-{self._checked(index):05d}"

    def drawn(self, index: int) -> tuple[Scene, list[int]]:
        """What scene `index` holds, and which of its things sound."""
        rng = self._rng(index, 0)
        scene = draw_scene(rng, self.world.objects)
        return scene, sorted(rng.permutation(len(scene))[: self.sources].tolist())

    def _rng(self, index: int, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, SPLITS[self.split], self._checked(index), _STREAM + part))

    def _checked(self, index: int) -> int:
        if not -self.n <= index < self.n:
            raise IndexError(f"the {self.split} split has scenes 0 to {self.n - 1}: got {index}.")
        return index % self.n
