"""The version of this program; pyproject.toml reads it from here. (Asking the installed metadata costs 20 ms a run.)"""

VERSION = "0.1.0"
