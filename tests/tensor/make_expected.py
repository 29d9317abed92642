"""Store how PyTorch prints: run with torch installed, from this folder."""

import json
from pathlib import Path

import printing_cases
import torch

shown = {name: repr(t) for name, t in printing_cases.cases(torch)}
Path(__file__).with_name("printing.json").write_text(json.dumps(shown, indent=1) + "\n")
