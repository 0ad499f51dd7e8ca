"""A CLIP in a folder, as transformers saves it: what it says, and its weights."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from mt_diffusion.errors import UserError
from mt_diffusion.files import weights
from mt_diffusion.files.names import shown
from mt_diffusion.models.clip.towers import ACTS, Form
from mt_diffusion.models.transformer import State

Shapes = dict[str, tuple[int, ...]]

TEXT, VISION = "text_model.", "vision_model."
TOWERS = {"clip": (TEXT, VISION), "clip_text_model": (TEXT,)}
TOWERS |= {"clip_vision_model": (VISION,)}  # by model_type
PROJECTIONS = {TEXT: "text_projection.weight", VISION: "visual_projection.weight"}
READ_BY = {TEXT: "texts", VISION: "images"}
# transformers' own defaults, for what a config.json leaves out.
DEFAULTS: dict[str, dict[str, Any]] = {
    TEXT: dict(hidden_size=512, intermediate_size=2048, num_attention_heads=8)
    | dict(vocab_size=49408, max_position_embeddings=77, eos_token_id=49407),
    VISION: dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    | dict(num_channels=3, image_size=224, patch_size=32),
}
COMMON = dict(num_hidden_layers=12, hidden_act="quick_gelu", layer_norm_eps=1e-5)
COMMON |= dict(projection_dim=512)
UNREAD = ("logit_scale", *(f"{t}embeddings.position_ids" for t in (TEXT, VISION)))


class Tower(NamedTuple):
    """One tower: what its part of the config says, its form and its weights."""

    config: Mapping[str, Any]
    form: Form
    state: State

    @property
    def width(self) -> int:
        """Of its hidden states."""
        return int(self.config["hidden_size"])


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a CLIP, or a tower of one."""
    return config.get("model_type") in TOWERS


def has(folder: pathlib.Path, tower: str) -> bool:
    """Whether a folder has a CLIP with that tower, TEXT or VISION."""
    path = folder / "config.json"
    config = weights.read_table(path) if path.is_file() else {}
    return tower in TOWERS.get(str(config.get("model_type")), ())


def read(folder: pathlib.Path, tower: str) -> Tower:
    """The tower TEXT or VISION of a folder; all of its weights are accounted for.

    Raises UserError for a folder of another architecture, and for weights that are
    missing, unused or misshapen.
    """
    config = weights.read_table(folder / "config.json")
    kind = str(config.get("model_type"))
    if not has(folder, tower):
        able = sorted(k for k, towers in TOWERS.items() if tower in towers)
        raise UserError(
            f"{shown(folder)} is of the kind {kind!r}, which does not read "
            f"{READ_BY[tower]}; give a CLIP's folder ({' or '.join(able)} in its "
            "config.json)."
        )
    state = weights.read_saved(folder, "model")
    if not any(name.startswith((TEXT, VISION)) for name in state):
        alone = set(PROJECTIONS.values())  # as transformers 5 saves one without it
        state = {n if n in alone else tower + n: x for n, x in state.items()}
    parts = {t: part_of(config, t) for t in TOWERS[kind]}
    wanted: Shapes = {}
    for name, part in parts.items():
        is_projected = kind == "clip" or PROJECTIONS[name] in state
        wanted |= shapes_of(name, part, is_projected)
    weights.check(
        {n: x.shape for n, x in state.items() if n not in UNREAD},
        wanted,
        f"{shown(folder)} is of another architecture than its config.json says",
    )
    own = {n: jnp.asarray(x) for n, x in state.items() if n.startswith(tower)}
    own = {n.removeprefix(tower): x for n, x in own.items() if n not in UNREAD}
    if (projection := PROJECTIONS[tower]) in state:
        own[projection] = jnp.asarray(state[projection])
    return Tower(parts[tower], form_of(folder, parts[tower]), own)


def part_of(config: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """What a config.json says of a tower, with the defaults."""
    told = dict(config)
    if config["model_type"] == "clip":
        told = config.get(tower.replace("_model.", "_config")) or {}
        told = told | {"projection_dim": config.get("projection_dim", 512)}
    found = COMMON | DEFAULTS[tower]
    return found | {name: told[name] for name in found if told.get(name) is not None}


def form_of(folder: pathlib.Path, part: Mapping[str, Any]) -> Form:
    """Raises UserError for what is not read here."""
    if part["hidden_act"] not in ACTS:
        raise UserError(
            f"{shown(folder)} has hidden_act = {part['hidden_act']!r}; a CLIP that is "
            f"read here has {' or '.join(ACTS)}."
        )
    names = ("num_hidden_layers", "num_attention_heads", "layer_norm_eps", "hidden_act")
    return Form(*(part[name] for name in names))


def shapes_of(tower: str, part: Mapping[str, Any], is_projected: bool) -> Shapes:
    """{name: shape} of all weights of a tower."""
    width, inner = part["hidden_size"], part["intermediate_size"]
    norms: Shapes = {"layer_norm1": (width,), "layer_norm2": (width,)}
    dense: Shapes = {
        f"self_attn.{n}_proj": (width, width) for n in ("q", "k", "v", "out")
    }
    dense |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    modules: Shapes = {
        f"encoder.layers.{i}.{name}": shape
        for i in range(part["num_hidden_layers"])
        for name, shape in (norms | dense).items()
    }
    if tower == TEXT:
        modules["final_layer_norm"] = (width,)
        embeddings: Shapes = {
            "token_embedding.weight": (part["vocab_size"], width),
            "position_embedding.weight": (part["max_position_embeddings"], width),
        }
    else:
        modules |= {"pre_layrnorm": (width,), "post_layernorm": (width,)}
        size, channels = part["patch_size"], part["num_channels"]
        places = 1 + (part["image_size"] // size) ** 2
        embeddings = {
            "class_embedding": (width,),
            "patch_embedding.weight": (width, channels, size, size),
            "position_embedding.weight": (places, width),
        }
    found = {f"{name}.weight": shape for name, shape in modules.items()}
    found |= {f"{name}.bias": shape[:1] for name, shape in modules.items()}
    found |= {f"embeddings.{name}": shape for name, shape in embeddings.items()}
    found = {tower + name: shape for name, shape in found.items()}
    projection = {PROJECTIONS[tower]: (part["projection_dim"], width)}
    return found | (projection if is_projected else {})
