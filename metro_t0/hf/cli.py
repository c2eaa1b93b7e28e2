"""`python -m metro_t0.hf.cli` is `metro-t0-convert`; its options are in `metro_t0.convert`."""

from metro_t0.convert import main

if __name__ == "__main__":
    raise SystemExit(main())
