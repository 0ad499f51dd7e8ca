"""The whole way of words: trained, drawn from, and read, by the commands."""

import csv

import PIL.Image

from configs import text
from mt_diffusion import library
from mt_diffusion.inference import reading, sampling

WORDS = ("black", "dark", "pale", "white")


def test_words_are_trained_drawn_and_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [("file", "caption")]
    for i, word in enumerate(WORDS * 6):
        path = tmp_path / "photos" / "all" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (8, 8), 80 * (i % 4)).save(path)
        rows += [(path.name, f"{word} thing {i // 8}")]
    with open(tmp_path / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows[:-1])  # one picture has none
    config = text.get_config("smoke")
    config.data.update(source="folder", path=str(tmp_path / "photos"), splits="none")
    config.data.captions = str(tmp_path / "captions.csv")
    config.unet.update(model_channels=8, num_groups=4, channel_mult=(1,))
    config.unet.attention_resolutions = ()
    config.modalities.text.update(encoder="letters", num_components=3, most_tokens=4)
    config.train.update(num_steps=1, batch_size=8)
    config.watch.update(sample_every=0, log_every=1)
    workdir = tmp_path / "run"
    library.train(config, workdir)
    (tmp_path / "list.txt").write_text("black thing\nwhite thing\nno such thing\n")
    out, overrides = tmp_path / "drawn", {"num_steps": 2, "batch_size": 8}
    given = [f"text={tmp_path / 'list.txt'}"]
    sampling.sample(workdir, out, None, 0, given, overrides | {"guidance": 2.0}, True)
    with open(out / "samples.csv", newline="") as file:
        told = [row["text"] for row in csv.DictReader(file)]
    assert told[:3] == ["black thing", "white thing", "no such thing"]
    reading.read(workdir, None, [], 0, overrides, True)
    captions = tmp_path / "list.txt"
    pictures = [f"image={out / 'samples'}"]
    capsys.readouterr()
    reading.read(workdir, tmp_path / "read", pictures, 0, overrides, True, captions)
    with open(tmp_path / "read" / "text.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["text"] for row in rows} == set(captions.read_text().split("\n")[:3])
    with open(tmp_path / "read" / "samples.csv", newline="") as file:
        told = [row["text"] for row in csv.DictReader(file)]
    assert told == [row["text"] for row in rows if row["rank"] == "1"]
    assert "text: " not in capsys.readouterr().out
