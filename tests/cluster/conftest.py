import sys

from harness import ROOT

sys.path.append(str(ROOT / "tests/attack"))  # credentials.py
