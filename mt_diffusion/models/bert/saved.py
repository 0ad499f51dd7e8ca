"""A BERT or RoBERTa in a folder, as sentence-transformers or transformers saves it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from mt_diffusion.errors import UserError
from mt_diffusion.files import weights
from mt_diffusion.files.names import shown
from mt_diffusion.models.bert.network import Form
from mt_diffusion.models.transformer import State

Shapes = dict[str, tuple[int, ...]]

ENDS = (".safetensors", weights.INDEX)  # of weights in a file, and in several
STEM, TOKENIZER, CONFIG = "model", "tokenizer.json", "config.json"
MODULES, LIMITS = "modules.json", "sentence_bert_config.json"
PREFIXES = ("bert.", "roberta.")  # of weights that were saved with a head
PADDING = {"bert": None, "roberta": 1, "xlm-roberta": 1}  # before the first place
POOLED = ("pooling_mode_cls_token", "pooling_mode_mean_tokens")
DEFAULTS = {"type_vocab_size": 2}  # transformers', for what a config.json leaves out
SIZES = (
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)


class Saved(NamedTuple):
    """What a folder says, but for its weights.

    home: the folder of these. config: its config.json. most: tokens that are read.
    is_mean: whether the vector is the mean of the tokens, or else the first of them.
    is_lower: whether texts are read in small letters.
    """

    home: pathlib.Path
    config: Mapping[str, Any]
    form: Form
    most: int
    is_mean: bool
    is_lower: bool

    @property
    def files(self) -> list[pathlib.Path]:
        """All that its vectors depend on, beside its form."""
        whole = self.home / f"{STEM}.safetensors"
        parts = sorted(self.home.glob(f"{STEM}-*-of-*.safetensors"))
        return [*([whole] if whole.is_file() else parts), self.home / TOKENIZER]

    def state(self) -> State:
        """Its weights; UserError for those of another architecture."""
        found = weights.read_saved(self.home, STEM)
        for prefix in PREFIXES:
            found = {name.removeprefix(prefix): x for name, x in found.items()}
        wanted = shapes_of(self.config)
        own = {name: x for name, x in found.items() if name in wanted}
        weights.check(
            {name: x.shape for name, x in own.items()},
            wanted,
            f"{shown(self.home)} is of another architecture than its {CONFIG} says",
        )
        return {name: jnp.asarray(x) for name, x in own.items()}


def read(folder: pathlib.Path) -> Saved:
    """What is in a folder, its weights not yet.

    Raises UserError for a folder that lacks something, or is of another form.
    """
    modules = modules_of(folder)
    home = folder
    for module in modules:
        if module["kind"] == "Transformer":
            home = folder / module["path"]
    missing = [n for n in (CONFIG, TOKENIZER) if not (home / n).is_file()]
    if not any((home / f"{STEM}{end}").is_file() for end in ENDS):
        missing = [f"{STEM}{ENDS[0]}", *missing]
    if missing:
        raise UserError(
            f"{shown(home)} is no sentence encoder that is read here: it has no "
            f"{', '.join(missing)}. Save the model as safetensors, with its fast "
            "tokenizer (save_pretrained of transformers does)."
        )
    config = config_of(home)
    padding = PADDING[config["model_type"]]
    if padding is not None and type(config.get("pad_token_id")) is int:
        padding = config["pad_token_id"]
    first = 0 if padding is None else padding + 1
    depth, heads = config["num_hidden_layers"], config["num_attention_heads"]
    form = Form(depth, heads, config["layer_norm_eps"], first)
    places = config["max_position_embeddings"] - first
    limits = weights.read_table(home / LIMITS) if (home / LIMITS).is_file() else {}
    most = limits.get("max_seq_length") or places
    if not isinstance(most, int) or most < 2:
        raise UserError(
            f"{shown(home / LIMITS)} says max_seq_length = {shown(repr(most))}; it "
            "must be a number of tokens, 2 or more."
        )
    is_mean = pools_by_mean(folder, modules)
    is_lower = bool(limits.get("do_lower_case", False))
    return Saved(home, config, form, min(most, places), is_mean, is_lower)


def config_of(home: pathlib.Path) -> dict[str, Any]:
    """Its config.json; UserError for a network that is not read here."""
    path = home / CONFIG
    config = DEFAULTS | weights.read_table(path)
    kind, act = config.get("model_type"), config.get("hidden_act")
    if kind not in PADDING or act != "gelu":
        raise UserError(
            f"{shown(home)} is of the kind {kind!r} (hidden_act = {act!r}), but those "
            f"that are read are {', '.join(PADDING)}, with gelu."
        )
    places = config.get("position_embedding_type") or "absolute"
    if places != "absolute":
        raise UserError(
            f"{shown(home)} has position_embedding_type = {places!r}; those that are "
            "read here have absolute places."
        )
    sizes = {name: config.get(name) for name in SIZES}
    wrong = {n: x for n, x in sizes.items() if type(x) is not int or x < 1}
    if not isinstance(config.get("layer_norm_eps"), float):
        wrong["layer_norm_eps"] = config.get("layer_norm_eps")
    if wrong:
        told = ", ".join(f"{name} = {x!r}" for name, x in wrong.items())
        raise UserError(
            f"{shown(path)} says {shown(told)}, where numbers are wanted; download or "
            "save it once more."
        )
    if config["hidden_size"] % config["num_attention_heads"]:
        raise UserError(
            f"{shown(path)} shares {config['hidden_size']} numbers out over "
            f"{config['num_attention_heads']} heads; that can't be."
        )
    return config


def modules_of(folder: pathlib.Path) -> list[dict[str, str]]:
    """The layers of a sentence encoder: kind and path; none of a plain transformer.

    Raises UserError for layers that are not read here.
    """
    path = folder / MODULES
    if not path.exists():
        return []
    told = weights.read_json(path)
    fields = [
        {n: m.get(n) if isinstance(m, dict) else None for n in ("type", "path")}
        for m in (told if isinstance(told, list) else [None])
    ]
    if not all(isinstance(x, str) for m in fields for x in m.values()):
        raise UserError(f"{shown(path)} is no list of layers; download it once more.")
    found = [
        {"kind": str(m["type"]).rpartition(".")[2], "path": str(m["path"])}
        for m in fields
    ]
    for module in found:
        place = pathlib.PurePosixPath(module["path"])
        if place.is_absolute() or ".." in place.parts:
            raise UserError(
                f"{shown(path)} has a layer in {shown(str(place))}, outside of its "
                "folder; take an encoder that has all of its parts in it."
            )
        if module["kind"] not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(
                f"{shown(folder)} has a layer {module['kind']} above its transformer, "
                "which is not read here; take an encoder of Transformer, Pooling and "
                "Normalize."
            )
    return found


def pools_by_mean(folder: pathlib.Path, modules: Sequence[Mapping[str, str]]) -> bool:
    """Whether the vector is the mean of the tokens, or else the first of them.

    Raises UserError for any other.
    """
    for module in modules:
        if module["kind"] == "Pooling":
            modes = weights.read_table(folder / module["path"] / CONFIG)
            used = [n for n, on in modes.items() if n.startswith("pooling_mode") and on]
            used += [f"pooling_mode_{m}" for m in [modes.get("pooling_mode")] if m]
            used = [name for name in used if name != "pooling_mode"]
            if len(used) != 1 or not used[0].startswith(POOLED):
                raise UserError(
                    f"{shown(folder)} pools by {used}; what is read here are the mean "
                    "of the tokens, and the first one."
                )
            return not used[0].startswith(POOLED[0])
    return True  # as sentence-transformers takes a plain model of transformers


def shapes_of(config: Mapping[str, Any]) -> Shapes:
    """{name: shape} of all weights that are read."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    embeddings = {
        "word": config["vocab_size"],
        "position": config["max_position_embeddings"],
        "token_type": config["type_vocab_size"],
    }
    found: Shapes = {
        f"embeddings.{name}_embeddings.weight": (num, width)
        for name, num in embeddings.items()
    }
    modules: Shapes = {"embeddings.LayerNorm": (width,)}
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        modules |= {
            f"{layer}.attention.self.{n}": (width, width)
            for n in ("query", "key", "value")
        }
        modules |= {
            f"{layer}.attention.output.dense": (width, width),
            f"{layer}.attention.output.LayerNorm": (width,),
            f"{layer}.intermediate.dense": (inner, width),
            f"{layer}.output.dense": (width, inner),
            f"{layer}.output.LayerNorm": (width,),
        }
    found |= {f"{name}.weight": shape for name, shape in modules.items()}
    return found | {f"{name}.bias": shape[:1] for name, shape in modules.items()}
