"""Renders the chart in each way that the tests know, for other tools to look at: render.py DIRECTORY"""

import sys
from pathlib import Path

import yaml

import helm
from test_objects import VARIANTS

for name, values in VARIANTS.items():
    file = Path(sys.argv[1]) / f"{name.replace(' ', '-')}.yaml"
    file.write_text(yaml.safe_dump_all(helm.render(values)), encoding="utf-8")
