"""Store the losses PyTorch gives: run with torch installed, from this folder."""

import json
from pathlib import Path

import classics
import models
import numpy
import torch

torch.set_num_threads(1)
losses = {name: models.train(name, numpy) for name in ("lenet", "gpt2", "gpt2-flash", "char-lstm")}
losses |= {name: classics.train(name, numpy) for name in ("vae", "gan", "ppo", "seq2seq")}
text = json.dumps({"torch": torch.__version__, **losses}, indent=1) + "\n"
Path(__file__).with_name("expected.json").write_text(text)
