"""The command line: one door, with help made from `conf/` and every error in one line."""
