"""How long properties are searched: few fixed examples in CI, many new ones by hand.

MYVLM_EXAMPLES=20000 pytest tests/properties
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = os.environ.get("MYVLM_EXAMPLES")
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]

settings.register_profile(
    "ci", max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW
)
settings.register_profile(
    "long",
    max_examples=int(EXAMPLES or 1),
    deadline=None,
    database=None,
    suppress_health_check=SLOW,
    print_blob=True,
)
settings.load_profile("long" if EXAMPLES else "ci")
