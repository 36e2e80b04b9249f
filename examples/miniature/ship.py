"""Put the study's cold-started students and its teachers beside it, in float16: the tests of the presets use them.

python examples/miniature/ship.py [--out runs/miniature]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from study import SIZES, WORLDS, last_model

from sod.sft import final_model

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    out = parser.parse_args().out
    models = {size: final_model(out / "cold" / size) for size in SIZES}
    models |= {name: last_model(out / "teachers" / name) for name in WORLDS}
    for name, model in models.items():
        target = HERE / "models" / name
        shutil.copytree(model, target, dirs_exist_ok=True)
        weights = {key: tensor.half() for key, tensor in load_file(model / "model.safetensors").items()}
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
