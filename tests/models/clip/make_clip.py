"""Makes tests/data/clip.npz by the original code, which the tests do not need.

  pip install torch transformers
  python tests/models/clip/make_clip.py

(torch 2.13.0+cpu, transformers 5.24.0.)
"""

import json
import pathlib
import tempfile

import numpy as np
import safetensors.numpy
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

OUT = pathlib.Path(__file__).parents[2] / "data" / "clip.npz"
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ("h e", "l l", "he ll", "hell o</w>", "r e", "re d</w>", "t h", "th e</w>")
MERGES += ("i t</w>", "1 0", "Ã ©", ". .", "' s</w>", "a n", "an d</w>", "! !</w>")
STRINGS = (
    "a red heart",
    "",
    "  Hello,\t\n the   RED\u00a0it ",
    "it's the hello's and they'll 10 100 2nd",
    "caf\u00e9 cafe\u0301 \u00c5lesund \u0130",
    "\U0001f600\U0001f469\u200d\U0001f680 !! ! ?...",
    f"a {END} b {START}",
    "<|EndOfText|> </w> hello</w>",
    "\u4f60\u597d \u0661\u0662 \u00bd x\u00b2 a_b",
    "hello-the\u2014red\u200b it",
    "\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
    "the " * 30,
)
SMALL = dict(
    num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, hidden_size=12
)


def words():
    """A vocabulary in the order of OpenAI's: bytes, their ends, merges, two more."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_ = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    merged = [m.replace(" ", "") for m in MERGES]
    all_ = [*bytes_, *(f"{b}</w>" for b in bytes_), *merged, START, END]
    return {word: i for i, word in enumerate(all_)}


def of_tokenizer(folder):
    """The ids of STRINGS, by a tokenizer from its files; -1 after the end."""
    (folder / "vocab.json").write_text(json.dumps(words()))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
    found = {"vocab": json.dumps(words()), "merges": "\n".join(MERGES)}
    found["strings"] = json.dumps(STRINGS)
    for name, pad in {"end": END, "mark": "!"}.items():
        told = {"pad_token": pad, "bos_token": START, "eos_token": END}
        told |= {"unk_token": END, "tokenizer_class": "CLIPTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(told))
        made = CLIPTokenizer.from_pretrained(folder)
        ids = [made(text).input_ids for text in STRINGS]
        found[f"ids_{name}"] = json.dumps(ids)
        found[f"padded_{name}"] = json.dumps(
            made(STRINGS, padding="max_length", max_length=16, truncation=True)[
                "input_ids"
            ]
        )
    made.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return {f"tokenizer/{name}": np.array(x) for name, x in found.items()}


def randomised(model):
    """Of which biases and norms are random, too."""
    for name, x in model.named_parameters():
        x.data += 0.2 * torch.randn(x.shape) * ("weight" not in name or x.ndim == 1)
        x.data *= 1 + 2 * (x.ndim > 1)
    return model.eval()


def saved(model, folder, name):
    """What a folder of `save_pretrained` has in it."""
    model.save_pretrained(folder)
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    found = {f"{name}/param/{n}": x for n, x in state.items()}
    return found | {f"{name}/config": np.array((folder / "config.json").read_text())}


def of_both(folder):
    """CLIP as OpenAI's: quick_gelu, a pooled place found by the largest id."""
    last = len(words())
    text = SMALL | dict(vocab_size=last, max_position_embeddings=16, eos_token_id=2)
    text |= dict(bos_token_id=last - 2)
    vision = SMALL | dict(image_size=12, patch_size=4, num_attention_heads=2)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    )
    model = randomised(model)
    ids = torch.randint(0, last - 2, (3, 16))
    for row, end in zip(ids, (15, 8, 3), strict=True):
        row[0], row[end:] = last - 2, last - 1
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 20, 20, 3), np.uint8)
    size = dict(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12})
    prepare = CLIPImageProcessorPil(**size)
    prepare.save_pretrained(folder)
    pixels = prepare(list(images), return_tensors="pt").pixel_values
    with torch.no_grad():
        told = model.get_text_features(ids)
        seen = model.get_image_features(pixels)
    found = dict(ids=ids, hidden=told.last_hidden_state, text=told.pooler_output)
    found |= dict(pixels=pixels, image=seen.pooler_output)
    arrays = {f"clip/{name}": x.numpy() for name, x in found.items()}
    arrays |= {"clip/images": images}
    told = (folder / "preprocessor_config.json").read_text()
    arrays |= {"clip/preprocessor": np.array(told)}
    return arrays | saved(model, folder, "clip")


def of_text(folder):
    """A text tower as Stable Diffusion 2 has it: gelu, without a projection."""
    last = 40
    config = SMALL | dict(vocab_size=last, max_position_embeddings=9, hidden_act="gelu")
    ends = dict(bos_token_id=last - 2, eos_token_id=last - 1, pad_token_id=0)
    model = randomised(CLIPTextModel(CLIPTextConfig(**config, **ends)))
    ids = torch.randint(1, last - 2, (2, 9))
    ids[0, 5], ids[0, 6:], ids[1, 8] = last - 1, 0, last - 1
    with torch.no_grad():
        told = model(ids)
    found = dict(ids=ids, hidden=told.last_hidden_state, text=told.pooler_output)
    arrays = {f"text/{name}": x.numpy() for name, x in found.items()}
    return arrays | saved(model, folder, "text")


def of_real():
    """The names and shapes of all weights of ViT-L/14, which take no room."""
    text = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
    vision |= dict(num_attention_heads=16, patch_size=14)
    config = dict(text_config=text, vision_config=vision, projection_dim=768)
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**config))
    shapes = {n: tuple(x.shape) for n, x in model.state_dict().items()}
    told = {"real/shapes": shapes, "real/config": config | {"model_type": "clip"}}
    return {name: np.array(json.dumps(x)) for name, x in told.items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    found = {}
    for make in (of_tokenizer, of_both, of_text):
        with tempfile.TemporaryDirectory() as folder:
            found |= make(pathlib.Path(folder))
    np.savez_compressed(OUT, **found, **of_real())
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")
