"""Models of images and of sound that stand beside a text model: what they hold in memory.

No text passes them, so that they need no forward pass: a run keeps them as they are.
read: transformers/models/gemma4/modeling_gemma4.py and gemma4_unified/modeling_gemma4_unified.py at
5.23.
"""

from typing import ClassVar

from planner.base.strict_yaml import PositiveInt, Spec
from planner.models.linear import Linear

Shape = tuple[int, ...]
CLIPPED, PROJECTION = "linear", "embedding_projection"
"""Names of a matrix whose values may be clipped, and of the one into the text's hidden size."""


class VisionTowerSpec(Spec):
    """Gemma 4's model of images."""

    num_layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    patch_size: PositiveInt
    position_rows: PositiveInt
    """Rows of each of its two tables of positions."""

    def matrices(self, text_size: int) -> tuple[Linear, ...]:
        """Return every matrix, the one into the text's hidden size last."""
        h, i = self.hidden_size, self.intermediate_size
        queries, keys = (
            self.head_dim * heads for heads in (self.num_attention_heads, self.num_key_value_heads)
        )
        sides = ((h, queries), (h, keys), (h, keys), (queries, h), (h, i), (h, i), (i, h))
        layer = tuple(Linear(CLIPPED, *each) for each in sides)
        patches = Linear("input_proj", 3 * self.patch_size**2, h)
        return (patches, *layer * self.num_layers, Linear(PROJECTION, h, text_size))

    @property
    def own_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the parameters that belong to no matrix: positions and norms."""
        h = self.hidden_size
        norms = ((h,),) * 4 + ((self.head_dim,),) * 2
        return ((2, self.position_rows, h), *norms * self.num_layers)


class AudioTowerSpec(Spec):
    """Gemma 4's model of sound, a conformer."""

    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    kernel_size: PositiveInt
    """Steps that the convolution of a layer sees."""
    channels: tuple[PositiveInt, PositiveInt]
    """Channels of the two convolutions in front of the layers."""
    output_size: PositiveInt

    def matrices(self, text_size: int) -> tuple[Linear, ...]:
        """Return every matrix, the one into the text's hidden size last."""
        h = self.hidden_size
        wide = ((h, 4 * h), (4 * h, h)) * 2
        sides = (*wide, *((h, h),) * 5, (h, 2 * h))
        layer = (
            *(Linear(CLIPPED, *each) for each in sides),
            Linear("relative_k_proj", h, h),
        )
        first, second = self.channels
        return (
            Linear("input_proj_linear", first // 4 * second, h),
            *layer * self.num_layers,
            Linear("output_proj", h, self.output_size, bias=True),
            Linear(PROJECTION, self.output_size, text_size),
        )

    @property
    def own_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the parameters that belong to no matrix: convolutions, norms and scales."""
        h, (first, second) = self.hidden_size, self.channels
        before = ((first, 1, 3, 3), (first,), (second, first, 3, 3), (second,))
        scale = (h // self.num_attention_heads,)
        layer = (scale, (h, 1, self.kernel_size), *((h,),) * 9)
        return (*before, *layer * self.num_layers)


class PatchesSpec(Spec):
    """What projects patches of images without a model of them (Gemma 4 12B)."""

    patch_size: PositiveInt
    """Side of a patch, in pixels."""
    hidden_size: PositiveInt
    position_rows: PositiveInt
    output_size: PositiveInt

    def matrices(self, text_size: int) -> tuple[Linear, ...]:
        """Return every matrix, the one into the text's hidden size last."""
        return (
            Linear("patch_dense", self._patch_elements, self.hidden_size, bias=True),
            Linear(PROJECTION, self.output_size, text_size),
        )

    @property
    def own_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the parameters that belong to no matrix: positions and norms."""
        h = self.hidden_size
        return ((self.position_rows, 2, h), *((self._patch_elements,),) * 2, *((h,),) * 4)

    @property
    def _patch_elements(self) -> int:
        return 3 * self.patch_size**2


class FramesSpec(Spec):
    """What projects frames of sound without a model of them (Gemma 4 12B)."""

    frame_size: PositiveInt

    own_shapes: ClassVar[tuple[Shape, ...]] = ()

    def matrices(self, text_size: int) -> tuple[Linear, ...]:
        """Return the matrix into the text's hidden size."""
        return (Linear(PROJECTION, self.frame_size, text_size),)


Tower = VisionTowerSpec | AudioTowerSpec | PatchesSpec | FramesSpec


class TowersSpec(Spec):
    """What stands beside a text model: one of these at least."""

    vision: VisionTowerSpec | None = None
    audio: AudioTowerSpec | None = None
    patches: PatchesSpec | None = None
    frames: FramesSpec | None = None

    @property
    def all(self) -> dict[str, Tower]:
        """Those that there are, by the module that leads to the text, in the model's order."""
        found = (
            ("vision", self.vision or self.patches),
            ("audio", self.audio or self.frames),
        )
        return {name: tower for name, tower in found if tower is not None}

    @property
    def module_names(self) -> tuple[str, ...]:
        """Names of the modules that hold parameters: the models, and what leads to the text."""
        own = {"vision": self.vision, "audio": self.audio}
        return (
            *(f"model.{name}_tower" for name, tower in own.items() if tower is not None),
            *(f"model.embed_{name}" for name in self.all),
        )

    def matrices(self, text_size: int) -> tuple[Linear, ...]:
        """Return the matrices of all."""
        return tuple(each for tower in self.all.values() for each in tower.matrices(text_size))

    @property
    def own_shapes(self) -> tuple[Shape, ...]:
        """The shapes of all other parameters."""
        return tuple(shape for tower in self.all.values() for shape in tower.own_shapes)
