"""The study's runs are such as can be, and its table says what its files say."""

import importlib
import json
import pathlib

import pytest

from studies import study, study_table

OUT = pathlib.Path("out")


def flat(config, prefix=""):
    """{name: value} of a config, with the dots of flags."""
    found = {}
    for name, value in config.items():
        nested = hasattr(value, "items")
        found |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


@pytest.mark.parametrize("name", study.RUNS)
def test_each_run_names_fields_of_its_config_and_runs_that_there_are(name):
    row = study.RUNS[name]
    assert {row.begun, row.again} - {""} <= study.RUNS.keys()
    if row.again:
        assert study.RUNS[row.again].draws and not row.config
        return
    module = importlib.import_module(f"configs.{row.config}")
    config = module.get_config("fashion_small")
    given = {draw.removeprefix("given_") for draw in row.draws.split(",")}
    assert given <= {"", "joint", *config.modalities}
    known = flat(config)
    for flag in study.command_of(name, 7, "data", OUT):
        if flag.startswith("--config."):
            assert flag.removeprefix("--config.").split("=")[0] in known


def test_all_runs_see_the_same_number_of_images():
    for name, row in study.RUNS.items():
        flags = study.command_of(name, 0, "data", OUT) if row.config else []
        given = [f for f in flags if f.startswith("--config.train.num_steps=")]
        own = int(given[0].split("=")[1]) if given else study.NUM_STEPS
        begun = study.NUM_JOINT if row.begun else 0
        if row.config and not name.endswith(("_half", "_long", "_short")):
            assert own + begun == study.NUM_STEPS, name


def run(seed, fid, error):
    """What one run's file has."""
    fid = {"draw": "joint", "name": "fid_convnet_5k_cfg1.0", "value": fid}
    fid |= {
        "floor": {"value": 34, "of": "noise"},
        "ceiling": {"value": 0.5 + seed / 5, "of": "test"},
    }
    patches = {"error_share": error, "distance": 2 * error, "distance_mean": 3}
    patches |= {"error_share_of_mean": error / 2, "spread": error / 4}
    return {
        "seed": seed,
        "metrics": [fid],
        "read_right": ["81.5"],
        "restoration": {"patches": {"repaint": {"5": patches}}},
    }


def test_the_table_has_means_and_ranges_over_seeds(tmp_path):
    for seed, fid, error in ((0, 2, 0.25), (1, 4, 0.75)):
        path = tmp_path / f"ddpm_{seed}.json"
        path.write_text(json.dumps(run(seed, fid, error)))
    (tmp_path / "ddpm_class_0.json").write_text(json.dumps(run(0, 9, 0.5)))
    text = study_table.write(tmp_path, ("ddpm", "ddpm_class", "joint"))
    assert text == (tmp_path / "table.md").read_text()
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows.setdefault(cells[0], []).append(cells[1:])
    (figures,), (filled,) = rows["ddpm"], rows["ddpm, repaint"]
    assert (
        figures[:2] == ["0, 1", "3 (2 to 4)"] and figures[-1] == "81.5 (81.5 to 81.5)"
    )
    assert filled[:2] == ["0, 1", "0.5 (0.25 to 0.75)"]
    assert filled[2] == "0.25 (0.125 to 0.375)" and filled[-1] == "1 (0.5 to 1.5)"
    assert rows["ddpm_class"][0][:2] == ["0", "9"]
    assert rows["the training mean"] == [["-", "1", "1", "0", "3"]]
    assert "- FID, noise: 34\n- FID, test: 0.5 to 0.7" in text and "joint" not in rows
