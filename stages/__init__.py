"""Training stages: one file and one YAML each, all on the loop in stages/base.py."""
