"""The models that come with the package: finding them, and making one from a finished run.

  python -m panda_jax.weights.shipped --workdir runs/tiny --name tiny --scores scores.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

from etils import epath
import numpy as np

import panda_jax
from panda_jax.paths import as_path

ASSETS = Path(panda_jax.__file__).parent / "assets"
SHIPPED = ("tiny",)


def find_model(name: str | os.PathLike) -> Path | epath.Path:
  """The folder behind a name: one of that name if there is one, otherwise the shipped model, otherwise the name."""
  return ASSETS / name if str(name) in SHIPPED and not Path(name).is_dir() else as_path(name)


def model_card(name: str, lines: list[dict], config: dict, scores: list[dict], digest: str) -> str:
  """What a user should know of a shipped model: command, steps, seed, hours, scores, hash.

  Args:
    name: of the model and of its config.
    lines: the run's metrics.
    config: the run's config.
    scores: rows of `evaluation.held_out.evaluate`.
    digest: SHA-256 of the weights file.
  """
  from panda_jax.evaluation.held_out import summary
  last = max(line["step"] for line in lines)
  losses = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
  hours = max(line.get("wall_seconds", 0) for line in lines) / 3600
  table = "\n".join(f"| {method} | {db:.2f} | {similarity:.3f} | {seam if seam == '' else f'{seam:.2f}'} |"
                    for method, db, similarity, seam in summary(scores))
  given = [row["given view"] for row in scores]
  return f"""# The {name} model

Trained on procedural worlds only (panda_jax/data/worlds.py), from scratch:

    python data_prep/render_worlds.py --output {config['data']['path']}
    panda train --config configs/{name}.py --workdir runs/{name} --config.data.path={config['data']['path']}

- steps: {last} of {config['batch_size']} matrices, seed {config['seed']}, {hours:.2f} hours on 2 CPU cores
- validation loss: {', '.join(f'{loss:.4f} at step {step}' for step, loss in (losses[0], losses[-1]))}
- weights: moving average, stored in float16, SHA-256 {digest}
- sampled with {', '.join(f'{name} {value}' for name, value in config['model']['sampling'].items())}

{len(scores)} held-out worlds, the front view given, scored over the part of the sphere that it does not show
(mean over worlds; `panda demo` prints this table):

| method | PSNR dB | SSIM | seam ratio |
|---|---|---|---|
{table}

Middle third of the given view, seen again in the result: {np.mean(given):.1f} dB, worst {min(given):.1f} dB.

It knows skies, grounds, hills, balloons, birds and kites at 32 pixels per view: enough to show the whole method at work
on a laptop, not to make videos that anyone would watch for their own sake.
"""


def main() -> None:
  """The command at the top of this file."""
  from panda_jax.generate.load import open_system
  from panda_jax.training.config import load_config, to_plain
  from panda_jax.training.metrics import METRICS_FILE, read_metrics
  from panda_jax.weights.folder import CARD_FILE, WEIGHTS_FILE, save_model

  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True, help="a finished run")
  parser.add_argument("--name", required=True, choices=SHIPPED)
  parser.add_argument("--scores", required=True, help="scores.json of `panda_jax.evaluation.held_out` or of the demo")
  args = parser.parse_args()
  import jax
  _, params, config = open_system(args.workdir)
  config.model.sampling = load_config(f"configs/{args.name}.py").model.sampling      # may be tuned after the training
  folder = ASSETS / args.name
  save_model(folder, jax.tree.map(lambda leaf: leaf.astype(np.float16), params), config)
  digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
  card = model_card(args.name, read_metrics(Path(args.workdir) / METRICS_FILE), to_plain(config),
                    json.loads(Path(args.scores).read_text(encoding="utf-8")), digest)
  (folder / CARD_FILE).write_text(card, encoding="utf-8")
  (folder / WEIGHTS_FILE).chmod(0o644)


if __name__ == "__main__":
  main()
