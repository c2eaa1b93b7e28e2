"""Let a `UserError` end fairseq's commands with one line and exit status 2.

fairseq prints tracebacks and wraps exceptions of loading code; `SystemExit` passes through all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from metro_t0.errors import UserError


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn a `UserError` of the body (a function decorated with this, or a with-block) into exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"metro-t0: error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
