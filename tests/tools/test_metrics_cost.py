from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_cost_is_measured_and_small() -> None:
    command = [sys.executable, "tools/metrics_cost.py", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    per_put = [float(number) for number in re.findall(r"([\d.]+) µs a put", done.stdout)]
    assert len(per_put) == 3
    assert per_put[0] > per_put[1] > per_put[2], "what is done, is done by the frame"
    assert "a sync: " in done.stdout
