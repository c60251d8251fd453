"""`graft tune`: Optuna chooses values, trials measure them, the best become an overlay of params.yaml.

Everything about a study is in its storage, so that the same command goes on with it, and any number of
processes can work on it. Optuna is imported here alone: search.yaml and the trials do not know it.
"""
