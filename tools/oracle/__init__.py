"""Python oracles: development only, nothing here runs inside vmoer."""
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model is a local file: nothing may be looked up by its name
