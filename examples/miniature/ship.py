"""Put the cold-started students and the teachers of the study and of the long calls beside them, in float16: the tests
of the presets use them.

python examples/miniature/ship.py [--out runs/miniature] [--long-calls runs/long_calls]
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
    parser.add_argument("--long-calls", type=Path, default=Path("runs/long_calls"))
    given = parser.parse_args()
    models = {size: final_model(given.out / "cold" / size) for size in SIZES}
    models |= {name: last_model(given.out / "teachers" / name) for name in WORLDS}
    models |= {f"long_{name}": final_model(given.long_calls / "cold" / name) for name in ("student", "teacher")}
    for name, model in models.items():
        target = HERE / "models" / name
        shutil.copytree(model, target, dirs_exist_ok=True)
        weights = {key: tensor.half() for key, tensor in load_file(model / "model.safetensors").items()}
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
