"""Quality, measured on judged data sets through the public API. See `evals.run`."""
