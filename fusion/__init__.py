"""What is done with several models: objective, weights, calibration, sampling, methods, evaluation. Importing does nothing."""
